"""DPO: the human reply against a reply to the opposite emotion, drawn anew every epoch.

accelerate launch recipes/dpo.py --config recipes/zephyr-7b/dpo.yaml --model runs/sft
python recipes/dpo.py --help
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from empo.alignment.launching import parse_recipe, quiet_dependencies
from empo.alignment.selection_settings import choose_best
from empo.alignment.settings import DpoSettings
from empo.corpora import Corpus
from empo.emotions import LABELS, OPPOSITES, Opposite, load_opposites
from empo.process import run
from empo.runs import Run

if TYPE_CHECKING:
    from trl import DPOConfig

    from empo.dialogues import Exchange
    from empo.mining.filed_draws import FiledDraws
    from empo.models import ModelSource
    from empo.preferences import Draws


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, draw, build, train, save."""
    quiet_dependencies()
    from trl import DPOConfig

    settings, args, given, launch = parse_recipe(argv, "dpo", DpoSettings, DPOConfig, __doc__ or "")
    choose_best(settings, args, given)

    from empo.alignment.dpo import check_batches
    from empo.alignment.training import read_splits, start_run
    from empo.pair_files import read_manifest

    check_batches(settings, args)
    table = load_opposites(settings.opposites) if settings.opposites else dict(OPPOSITES)
    corpora = read_splits(settings, None if settings.opposites else LABELS)
    pairs = {"pairs": read_manifest(settings.pairs).get("files")} if settings.pairs else {}
    with start_run(args, "dpo", settings, given, launch, corpora, pairs) as job:
        if not job.complete:
            _train(settings, args, job, table, *corpora)
    return 0


def _train(
    settings: DpoSettings,
    args: DPOConfig,
    job: Run,
    table: dict[str, Opposite],
    train_corpus: Corpus,
    valid_corpus: Corpus,
) -> None:
    """One run, from the draws to the adapter."""
    from empo.alignment.dpo import dpo_rows, reference_identity, shares_prefix, training_rows
    from empo.alignment.dpo_trainer import RedrawnDPOTrainer
    from empo.alignment.pair_batches import EpochCollator
    from empo.alignment.starting import chat_as_trained, hand_over, policy_and_reference
    from empo.alignment.training import (
        base_facts,
        check_same,
        finish,
        fresh_adapter,
        template_facts,
        train,
    )
    from empo.models import require_targets
    from empo.preferences import Draws
    from empo.raters.identity import refuse_same_weights
    from empo.selection import validation_measure

    source = hand_over(settings, args.trust_remote_code)
    shared = shares_prefix(settings, args, source)
    if shared and args.process_index == 0:
        print("shared_prefix: a prompt is computed once for all its replies")
    tokenizer, chat = chat_as_trained(source, settings, job)
    several = settings.rejected_per_prompt
    draws, exchanges, facts = training_draws(
        settings, train_corpus.exchanges(), table, args.seed, source
    )
    refuse_same_weights(facts.get("reward", ()), settings.select_rater or ())
    valid_exchanges = valid_corpus.exchanges()
    valid_draws = Draws(valid_exchanges, table, args.seed)
    rows, lengths = training_rows(exchanges, draws, chat, settings, args, args.world_size)
    valid_rows, valid_lengths = dpo_rows(
        valid_exchanges, valid_draws, chat, args.max_length, 1, several
    )
    measure = validation_measure(
        settings, chat, source, train_corpus.dialogues, valid_exchanges, args.seed
    )
    if job.facts["launch"]["actual"]["type"] == "FSDP" and args.precompute_ref_log_probs:
        args.precompute_ref_log_probs = False  # weights are in shards only once training starts
        print("FSDP: the reference is run in every step, not once before training")
    policy, reference_model, reference = policy_and_reference(settings, source, args)
    if not settings.full_training and not source.adapters:
        require_targets(policy, settings.lora_targets)
    job.facts.update(
        data=[train_corpus.facts(), valid_corpus.facts()],
        lengths={"train": lengths, "valid": valid_lengths},
        adapter=not settings.full_training,
        reference=reference,
        shared_prefix=shared,
        start=source.facts(),
        **facts,
        **({"selection": measure.facts} if measure else {}),
        **base_facts(source, args.output_dir),
        **template_facts(chat),
    )
    learnt_from = {"pairs": facts["pairs"]["files"]} if settings.pairs else {}
    check_same(job, args, settings.accept_changes, learnt_from)
    trainer = RedrawnDPOTrainer(
        model=policy,
        ref_model=reference_model,
        args=args,
        train_dataset=rows,
        eval_dataset=valid_rows,
        processing_class=tokenizer,
        peft_config=None if source.adapters else fresh_adapter(settings),
        data_collator=EpochCollator(
            tokenizer.pad_token_id,
            pad_to_multiple_of=args.pad_to_multiple_of,
            rejected_per_prompt=several,
            shared=shared,
        ),
        measure=measure,
        tokens_per_batch=settings.tokens_per_batch,
        reference_folder=settings.reference_cache,
        reference_identity=reference_identity(settings, source, chat),
    )
    job.facts.setdefault("reference_logps", trainer.reference_facts)  # a resumed run finds them
    train(trainer, job)
    finish(trainer, job)
    if trainer.is_world_process_zero():
        print(f"DPO model in {args.output_dir}")


def training_draws(
    settings: DpoSettings,
    exchanges: list[Exchange],
    table: dict[str, Opposite],
    seed: int,
    source: ModelSource,
) -> tuple[Draws | FiledDraws, list[Exchange], dict[str, Any]]:
    """Who says what is rejected, the exchanges that are trained on, and what run.json says of both."""
    from empo.alignment.starting import rewarded_by
    from empo.mining.filed_draws import FiledDraws
    from empo.preferences import Draws

    if not settings.pairs:
        return Draws(exchanges, table, seed), exchanges, rewarded_by(source)
    draws = FiledDraws(settings.pairs, exchanges, settings.rejected_per_prompt)
    if os.environ.get("RANK", "0") == "0":
        left, repeated = draws.facts["exchanges_without_pairs"], draws.facts["repeated_by_epoch"]
        print(
            f"{settings.pairs}: pairs of {len(draws.exchanges):,} exchanges, {left:,} have none and are "
            f"left out; repeated from another epoch: {', '.join(f'{n:,}' for n in repeated)}"
        )
    return draws, draws.exchanges, {"pairs": draws.facts, **rewarded_by(source, draws.selected_by)}


if __name__ == "__main__":
    run(main)

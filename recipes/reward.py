"""GRPO: the policy's own replies, rewarded by a rater.

accelerate launch recipes/reward.py --config recipes/tiny/reward.yaml
python recipes/reward.py --help

Starts from the merged SFT model (or another model folder, or a DPO run that was merged), with a fresh
adapter; the reference of the KL term is where it starts. What is rewarded is no measure: evaluate with
another rater (`eval/responses.py --ratings`), and look at the length of the replies. The same command
goes on after a stop.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from empo.alignment.launching import parse_recipe, quiet_dependencies
from empo.alignment.selection_settings import choose_best
from empo.alignment.settings import RewardSettings
from empo.corpora import Corpus
from empo.emotions import LABELS
from empo.process import run
from empo.runs import Run

if TYPE_CHECKING:
    from trl import GRPOConfig

    from empo.dialogues import Exchange
    from empo.raters.rewards import RaterReward


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, rate, train, save."""
    quiet_dependencies()
    from trl import GRPOConfig

    settings, args, given, launch = parse_recipe(
        argv, "reward", RewardSettings, GRPOConfig, __doc__ or ""
    )
    choose_best(settings, args, given)

    from empo.alignment.training import read_splits, start_run
    from empo.raters.identity import identities

    raters = identities(settings.rater)
    corpora = read_splits(settings, LABELS)
    with start_run(
        args, "reward", settings, given, launch, corpora, rewarded_weights(raters)
    ) as job:
        if not job.complete:
            _train(settings, args, job, raters, *corpora)
    return 0


def _train(
    settings: RewardSettings,
    args: GRPOConfig,
    job: Run,
    raters: Sequence[Mapping[str, Any]],
    train_corpus: Corpus,
    valid_corpus: Corpus,
) -> None:
    """One run, from the reward to the adapter."""
    from empo.alignment.reward_trainer import RewardTrainer, prompt_rows
    from empo.alignment.starting import chat_as_trained, merged_model, rewarded_by
    from empo.alignment.training import (
        base_facts,
        check_same,
        finish,
        fresh_adapter,
        template_facts,
        train,
    )
    from empo.models import load_model, require_targets
    from empo.raters.identity import refuse_same_weights
    from empo.selection import validation_measure

    source = merged_model(settings.model, settings.revision, args.trust_remote_code)
    refuse_same_weights(rewarded_by(source, raters)["reward"], settings.select_rater or ())
    exchanges, valid_exchanges = train_corpus.exchanges(), valid_corpus.exchanges()
    reward, facts = rater_reward(settings, exchanges)
    tokenizer, chat = chat_as_trained(source, settings, job)
    rows, lengths = prompt_rows(exchanges, chat, settings.max_prompt_length)
    valid_rows, valid_lengths = prompt_rows(valid_exchanges, chat, settings.max_prompt_length)
    measure = validation_measure(
        settings, chat, source, train_corpus.dialogues, valid_exchanges, args.seed
    )
    policy = load_model(source, settings.dtype, attention=settings.attention)
    if not settings.full_training:
        require_targets(policy, settings.lora_targets)
    job.facts.update(
        data=[train_corpus.facts(), valid_corpus.facts()],
        lengths={"train": lengths, "valid": valid_lengths},
        adapter=not settings.full_training,
        start=source.facts(),
        **rewarded_by(source, [{**rater, **facts} for rater in raters]),
        **({"selection": measure.facts} if measure else {}),
        **base_facts(source, args.output_dir),
        **template_facts(chat),
    )
    check_same(job, args, settings.accept_changes, rewarded_weights(raters))
    trainer = RewardTrainer(
        model=policy,
        reward_funcs=reward,
        args=args,
        train_dataset=rows,
        eval_dataset=valid_rows,
        processing_class=tokenizer,
        peft_config=fresh_adapter(settings),
        chat=chat,
        measure=measure,
    )
    train(trainer, job)
    finish(trainer, job)
    if trainer.is_world_process_zero():
        print(f"GRPO model in {args.output_dir}")


def rewarded_weights(raters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By what a reward is known again: the digests of its raters' weights."""
    return {"reward": [rater["weights"] for rater in raters]}


def rater_reward(
    settings: RewardSettings, exchanges: Sequence[Exchange]
) -> tuple[RaterReward, dict[str, Any]]:
    """The reward, and what run.json says of it beside each of its raters.

    How the reward goes with length is measured on human replies, and said where it does. Raises
    UserError where the rater scores none of them, or lacks what is asked for.
    """
    from empo.length_effect import LengthEffect, spread_out
    from empo.raters.loading import load_raters
    from empo.raters.rewards import as_reward
    from empo.rating import RatingInput

    rater = load_raters(settings.rater, settings.rater_device)
    names = settings.dimensions or [dimension.name for dimension in rater.dimensions]
    weights = dict(zip(names, settings.weights or [1.0] * len(names), strict=True))
    reward = as_reward(rater, weights, settings.transform, level=settings.level)
    some = spread_out(exchanges)
    found = reward.of([RatingInput(each.context, each.reply) for each in some])
    effect = LengthEffect.fit(found, [each.reply for each in some])
    told = [effect.warning] if effect.warning and not settings.length_residual else []
    for warning in (*rater.warnings, *told):
        if os.environ.get("RANK", "0") == "0":
            print(f"warning: {warning}")
    if settings.length_residual:
        effect.require_rest()
        reward.length = effect
    return reward, {"length_effect": effect.facts(), **reward.facts()}


if __name__ == "__main__":
    run(main)

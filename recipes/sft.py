"""Supervised fine-tuning on whole dialogues, loss on the listener's turns only.

accelerate launch recipes/sft.py --config recipes/zephyr-7b/sft.yaml --dialogues ED_FOLDER
python recipes/sft.py --help
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from empo.alignment.launching import parse_recipe, quiet_dependencies
from empo.alignment.selection_settings import choose_best
from empo.alignment.settings import SftSettings
from empo.corpora import Corpus
from empo.process import run
from empo.records import UserError
from empo.runs import Run

if TYPE_CHECKING:
    from trl import SFTConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, build, train, save, merge."""
    quiet_dependencies()
    from trl import SFTConfig

    settings, args, given, launch = parse_recipe(argv, "sft", SftSettings, SFTConfig, __doc__ or "")
    choose_best(settings, args, given)

    from empo.alignment.sft import check_packing
    from empo.alignment.training import read_splits, start_run

    check_packing(args, settings.attention)
    corpora = read_splits(settings)
    with start_run(args, "sft", settings, given, launch, corpora) as job:
        if not job.complete:
            _train(settings, args, job, *corpora)
    return 0


def _train(
    settings: SftSettings, args: SFTConfig, job: Run, train_corpus: Corpus, valid_corpus: Corpus
) -> None:
    """One run, from the dialogues to the merged model."""
    from empo import models
    from empo.alignment.sft import MaskedTurnTrainer, describe_packing, pack_rows, sft_rows
    from empo.alignment.training import (
        base_facts,
        check_same,
        finish,
        fresh_adapter,
        template_facts,
        train,
    )
    from empo.prompts import ChatFormat
    from empo.selection import validation_measure

    source = models.resolve(
        settings.model, revision=settings.revision, trust_remote_code=args.trust_remote_code
    )
    if source.adapters:
        raise UserError(f"{settings.model} is an adapter: merge it first with `empo merge`.")
    tokenizer = models.load_tokenizer(source)
    chat = ChatFormat(tokenizer, settings.chat_template, settings.system_message)
    tokenizer.chat_template = chat.plain_template
    rows, lengths = sft_rows(train_corpus.dialogues, chat, args.max_length)
    valid_rows, valid_lengths = sft_rows(valid_corpus.dialogues, chat, args.max_length)
    if args.packing:
        rows, lengths["packed"] = pack_rows(rows, args.max_length)
        if args.eval_packing is not False:  # None: as the training rows
            valid_rows, valid_lengths["packed"] = pack_rows(valid_rows, args.max_length)
    exchanges = valid_corpus.exchanges()
    measure = validation_measure(
        settings, chat, source, train_corpus.dialogues, exchanges, args.seed
    )
    job.facts.update(
        data=[train_corpus.facts(), valid_corpus.facts()],
        lengths={"train": lengths, "valid": valid_lengths},
        adapter=not settings.full_training,
        **({"selection": measure.facts} if measure else {}),
        **base_facts(source, args.output_dir),
        **template_facts(chat),
    )
    check_same(job, args, settings.accept_changes)
    model = models.load_model(source, settings.dtype, settings.attention, settings.load_in_4bit)
    if not settings.full_training:
        models.require_targets(model, settings.lora_targets)
    if args.packing and args.process_index == 0:
        print(describe_packing(args, lengths, model.config._attn_implementation))
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = MaskedTurnTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=valid_rows,
        processing_class=tokenizer,
        peft_config=fresh_adapter(settings),
        measure=measure,
    )
    train(trainer, job)
    if trainer.is_world_process_zero() and settings.merge_adapter and not settings.full_training:
        folder = Path(args.output_dir)
        adapted = dataclasses.replace(source, adapters=(str(folder),), run=job.facts)
        models.merge(adapted, folder / models.MERGED, settings.dtype)
    finish(trainer, job)
    if trainer.is_world_process_zero():
        print(f"SFT model in {args.output_dir}")


if __name__ == "__main__":
    run(main)

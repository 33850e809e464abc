"""Train a small base model from scratch, tokenizer included.

accelerate launch recipes/base.py --config recipes/tiny/base.yaml --output_dir runs/base
python recipes/base.py --help
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from empo.alignment.launching import parse_recipe, quiet_dependencies
from empo.alignment.settings import BaseSettings
from empo.corpora import Corpus
from empo.process import run
from empo.records import UserError
from empo.runs import Run

if TYPE_CHECKING:
    from trl import SFTConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, build, train, save."""
    quiet_dependencies()
    from trl import SFTConfig

    settings, args, given, launch = parse_recipe(
        argv, "base", BaseSettings, SFTConfig, __doc__ or ""
    )

    if args.packing:
        raise UserError(
            "packing: a small base is trained unpacked; set train_sampling_strategy: group_by_length."
        )

    from empo.alignment.training import read_splits, start_run

    corpora = read_splits(settings)
    with start_run(args, "base", settings, given, launch, corpora) as job:
        if not job.complete:
            _train(settings, args, job, *corpora)
    return 0


def _train(
    settings: BaseSettings, args: SFTConfig, job: Run, train_corpus: Corpus, valid_corpus: Corpus
) -> None:
    """One base, from the texts of the corpus to its folder."""
    from empo.alignment.sft import MaskedTurnTrainer, sft_rows
    from empo.alignment.training import check_same, finish, template_facts, train
    from empo.prompts import ChatFormat
    from empo.small_models import small_base, train_tokenizer

    texts = [turn.text for dialogue in train_corpus.dialogues for turn in dialogue.turns]
    tokenizer = train_tokenizer([*texts, settings.system_message or ""], settings.vocab_size)
    tokenizer.name_or_path = args.output_dir
    chat = ChatFormat(tokenizer, settings.chat_template or "zephyr", settings.system_message)
    tokenizer.chat_template = chat.plain_template
    tokenizer.model_max_length = 2 * (args.max_length or 512)
    model = small_base(
        tokenizer, settings.hidden_size, settings.layers, settings.heads, tokenizer.model_max_length
    )
    rows, lengths = sft_rows(train_corpus.dialogues, chat, args.max_length, settings.loss_on)
    valid_rows, valid_lengths = sft_rows(valid_corpus.dialogues, chat, args.max_length)
    job.facts.update(
        data=[train_corpus.facts(), valid_corpus.facts()],
        lengths={"train": lengths, "valid": valid_lengths},
        parameters=model.num_parameters(),
        **template_facts(chat),
    )
    check_same(job, args, settings.accept_changes)
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    trainer = MaskedTurnTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        eval_dataset=valid_rows,
        processing_class=tokenizer,
    )
    train(trainer, job)
    finish(trainer, job)
    if trainer.is_world_process_zero():
        print(f"base model of {model.num_parameters():,} parameters in {args.output_dir}")


if __name__ == "__main__":
    run(main)

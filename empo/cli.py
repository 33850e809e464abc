"""The `empo` command: one subcommand per task, each with its own --help."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from empo.corpora import Corpus, load_corpus
from empo.process import run
from empo.records import NIDF_SCHEMA, UserError, read_object, write_json
from empo.runs import MANIFEST, alone
from empo.settings import option, parse


@dataclass
class NidfSettings:
    """Settings of `empo nidf-table`."""

    dialogues: list[str] = option(help="one or more corpus files, as a rule train and valid")
    output: str = option(help="JSON file for the table")
    all_turns: bool = option(False, help="count all turns, not all but the last of a dialogue")
    mapping: str | None = option(None, help="YAML with the column names of another corpus")


def nidf_command(argv: Sequence[str]) -> int:
    """Document frequencies for the specificity metric (NIDF).

    Example: empo nidf-table --dialogues ED/train.csv ED/valid.csv --output nidf.json
    """
    from empo.metrics.nidf import build_table

    (settings,) = parse(
        argv, NidfSettings, prog="empo nidf-table", description=nidf_command.__doc__ or ""
    )
    corpora: list[Corpus] = []
    for path in settings.dialogues:
        corpora.append(load_corpus(path, mapping=settings.mapping))
        print(corpora[-1].summary())
    dialogues = [dialogue for corpus in corpora for dialogue in corpus.dialogues]
    table = build_table(dialogues, all_turns=settings.all_turns)
    table["corpus"] = [corpus.facts()["files"] for corpus in corpora]
    write_json(settings.output, {"schema": NIDF_SCHEMA, **table})
    print(f"{len(table['counts']):,} tokens in {table['documents']:,} documents: {settings.output}")
    return 0


@dataclass
class MergeSettings:
    """Settings of `empo merge`."""

    model: str = option(help="adapter run folder, or model with --adapter")
    output: str | None = option(None, help="folder of the merged model (default: MODEL/merged)")
    adapter: str | None = option(None, help="adapter folder to merge into --model")
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", help="type to save in")


def merge_command(argv: Sequence[str]) -> int:
    """Merge an adapter chain into its base and save a plain model.

    Merging is done in float32, then cast. The folder appears when all of it is written; the same
    command again finds it done. Example: empo merge --model runs/dpo
    """
    from empo.alignment.launching import quiet_dependencies

    (settings,) = parse(
        argv, MergeSettings, prog="empo merge", description=merge_command.__doc__ or ""
    )
    quiet_dependencies()
    from empo import models

    source = models.resolve(settings.model, settings.adapter, merged=False)
    if not source.adapters:
        raise UserError(f"{settings.model}: there is no adapter to merge.")
    output = Path(settings.output or Path(settings.model) / models.MERGED)
    beside = output.with_name(f".{output.name}.partial")
    with alone(output.with_name(f".{output.name}.lock"), output):
        if not _merged(output, source.facts(), settings.dtype):
            shutil.rmtree(beside, ignore_errors=True)  # a kill may have left it
            models.merge(source, beside, settings.dtype)
            if output.is_dir():
                output.rmdir()
            beside.rename(output)
    print(f"{source.base} + {', '.join(source.adapters)}: {output}")
    return 0


def _merged(output: Path, merged: dict[str, Any], dtype: str) -> bool:
    """Whether this very merge lies in `output` already; UserError where something else does."""
    if not output.is_dir() or not any(output.iterdir()):
        return False
    if not (output / MANIFEST).is_file():
        raise UserError(
            f"{output}: the folder is not empty and has no {MANIFEST}, which a merge writes last: a "
            "merge that was stopped, or something else. Delete it, or choose another --output."
        )
    there = read_object(output / MANIFEST)
    if (there.get("merged"), there.get("dtype")) != (merged, dtype):
        raise UserError(f"{output}: the folder is not empty; choose another --output.")
    return True


@dataclass
class ConvertSettings:
    """Settings of `empo convert-epitome`."""

    output: str = option(help="folder for the rater")
    er: str | None = option(None, help=".pth file of the emotional reactions classifier")
    ip: str | None = option(None, help=".pth file of the interpretations classifier")
    ex: str | None = option(None, help=".pth file of the explorations classifier")
    encoder: str = option("roberta-base", help="encoder they were trained on: preset, id or folder")

    def problems(self) -> list[str]:
        """What cannot work."""
        return [] if self.er or self.ip or self.ex else ["give --er, --ip or --ex (or all three)."]


def convert_command(argv: Sequence[str]) -> int:
    """Published EPITOME classifiers (.pth) as a rater folder with safetensors.

    The files are read without running anything in them. The rater always warns, because nothing
    shows on which posts it was trained, so no evaluation can count as held out.

    Example: empo convert-epitome --er ER.pth --ip IP.pth --ex EX.pth --output raters/published
    """
    (settings,) = parse(
        argv,
        ConvertSettings,
        prog="empo convert-epitome",
        description=convert_command.__doc__ or "",
    )
    from empo.raters.published import convert
    from empo.rating import MECHANISMS

    given = dict(zip(MECHANISMS, (settings.er, settings.ip, settings.ex), strict=True))
    files = {name: file for name, file in given.items() if file}
    print(convert(files, settings.output, settings.encoder))
    return 0


def demo(argv: Sequence[str]) -> int:
    """The whole flow on a laptop: sample corpus, tiny base, SFT, DPO, replies, report."""
    from empo.demo import demo_command

    return demo_command(argv)


def chat(argv: Sequence[str]) -> int:
    """Talk to one or two systems side by side, in the terminal."""
    from empo.chat import chat_command

    return chat_command(argv)


def preview(argv: Sequence[str]) -> int:
    """Tokens with the loss mask, lengths, steps, parameters and memory of a recipe, untrained."""
    from empo.preview import preview_command

    return preview_command(argv)


def pairs(argv: Sequence[str]) -> int:
    """Preference pairs of every epoch, as files that any trainer reads."""
    from empo.pairs import pairs_command

    return pairs_command(argv)


def rate(argv: Sequence[str]) -> int:
    """Score pairs of context and response with a rater, from file to file."""
    from empo.rate import rate_command

    return rate_command(argv)


def agreement(argv: Sequence[str]) -> int:
    """Agreement of annotators: Pearson, Spearman, kappa, alpha with intervals."""
    from empo.agree import agreement_command

    return agreement_command(argv)


def intents(argv: Sequence[str]) -> int:
    """Perceived empathy by expressed intent: means, standard errors, corrected tests."""
    from empo.intents import intents_command

    return intents_command(argv)


def survey(argv: Sequence[str]) -> int:
    """Ratings by people: batches, the page they answer on, the analysis."""
    from empo.survey_commands import survey_command

    return survey_command(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "demo": demo,
    "pairs": pairs,
    "preview": preview,
    "chat": chat,
    "rate": rate,
    "convert-epitome": convert_command,
    "merge": merge_command,
    "nidf-table": nidf_command,
    "agreement": agreement,
    "intents": intents,
    "survey": survey,
}


def main() -> None:
    """Entry point of the `empo` command."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print("usage: empo COMMAND [--help] [--config FILE] [--key value ...]\n\ncommands:")
        for name, command in COMMANDS.items():
            print(f"  {name:<16} {(command.__doc__ or '').splitlines()[0]}")
        sys.exit(0)
    if words[0] not in COMMANDS:
        print(
            f"error: empo {words[0]}: no such command; known: {', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        sys.exit(2)
    run(lambda: COMMANDS[words[0]](words[1:]))


if __name__ == "__main__":
    main()

"""Replies of a model to a split of a corpus.

    python recipes/generate.py --model runs/dpo --dialogues ED_FOLDER --system dpo --output dpo.jsonl

Four systems make up an evaluation: `baseline` (the model before training), `length-controlled`
(the same model asked for short replies, at most 30 new tokens, cut at the last full sentence),
`sft` and `dpo`. The name only labels the replies, but for `length-controlled`, which sets these
three. A second run does only what is missing; every finished batch is kept.

    python recipes/generate.py --model runs/sft --dialogues ED_FOLDER --system sft-best-of-8 \\
        --output best.jsonl --best-of 8 --rater runs/raters/levels

samples 8 replies per context and keeps the one that the rater likes best (docs/pairs.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from empo.alignment.launching import quiet_dependencies
from empo.choosing import BestOf
from empo.dialogues import Exchange
from empo.judging import JudgeSettings, load_judge
from empo.pair_rules import pair_rule
from empo.process import run
from empo.prompts import LENGTH_CONTROLLED_MESSAGE, SYSTEM_MESSAGE
from empo.records import file_facts
from empo.runs import alone
from empo.settings import option, parse

LENGTH_CONTROLLED = "length-controlled"
_PATHS = {"output_dir", "dialogues", "valid", "model", "mapping", "opposites", "chat_template"}
_PATHS |= {"select_rater", "select_lexicons", "deepspeed", "pairs"}


@dataclass(kw_only=True)
class GenerateSettings(JudgeSettings):
    """Settings of recipes/generate.py."""

    model: str = option(help="hub id, model folder or run folder (its adapter chain is applied)")
    dialogues: str = option(help="corpus: file, folder with one file per split, or hub:owner/name")
    system: str = option(help="name of the system in the responses file and the report")
    output: str = option(help="responses file to write (.jsonl)")
    split: str = option("test", help="split of a folder or hub corpus")
    subset: Literal["published"] | None = option(
        None, help="published: the 2,540 exchanges of ED test that the paper evaluates"
    )
    mapping: str | None = option(None, help="YAML with the column names of another corpus")
    limit: int | None = option(None, help="answer only the first N exchanges")
    adapter: str | None = option(None, help="adapter folder to use instead of the model's own")
    revision: str | None = option(None, help="revision of a hub model")
    trust_remote_code: bool = option(
        False, help="run the code that the model comes with (docs/security.md)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", help="type of the weights")
    load_in_4bit: bool = option(False, help="quantise the base to 4 bits (needs a GPU)")
    device: str | None = option(None, help="cpu, cuda, ... (default: a GPU where there is one)")
    chat_template: str | None = option(
        None, help="`zephyr` or a .jinja file (default: the model's)"
    )
    system_message: str | None = option(
        None, help="system message (default: the one the model was trained with)"
    )
    max_new_tokens: int | None = option(
        None, help="longest reply (default 60; 30 length-controlled)"
    )
    temperature: float | None = option(None, help="0 is greedy (default 0; 1 with --best-of)")
    top_p: float = option(1.0, help="nucleus for sampling")
    batch_size: int = option(32, help="replies generated at once; part of the result when sampling")
    max_prompt_tokens: int = option(512, help="longer contexts lose their oldest turns")
    seed: int = option(42, help="seed for sampling")
    best_of: int | None = option(
        None, help="sample so many replies per context and keep the one that --rater likes best"
    )

    @property
    def decoding_temperature(self) -> float:
        """The one given, or what fits the way of replying."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.best_of is None else 1.0

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        for name in ("limit", "max_new_tokens", "batch_size", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"--{name.replace('_', '-')}: {value} is below 1.")
        if self.decoding_temperature < 0:
            found.append(f"--temperature: {self.temperature} is below 0.")
        if self.best_of is None:
            found += self.needless("--best-of N")
            if self.rater is not None:
                found.append("--rater: nothing is chosen without --best-of N.")
        else:
            if self.best_of < 2:
                found.append(f"--best-of: of {self.best_of} nothing can be chosen; give 2 or more.")
            if self.rater is None:
                found.append("--best-of: give the rater that chooses as --rater DIR.")
            if self.temperature == 0:
                found.append(
                    "--temperature: greedy replies to one context are all the same; --best-of "
                    "needs a temperature above 0."
                )
        if not self.output.endswith(".jsonl"):
            found.append(f"--output: {self.output} is no .jsonl file.")
        return found


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and reply while no other process does."""
    (settings,) = parse(
        argv, GenerateSettings, prog="recipes/generate.py", description=__doc__ or ""
    )
    output = Path(settings.output)
    with alone(output.with_name(f".{output.name}.lock"), output):
        return reply(settings)


def reply(settings: GenerateSettings) -> int:
    """Load, generate, say where it is."""
    quiet_dependencies()
    import torch

    from empo import models
    from empo.corpora import load_corpus, published_subset
    from empo.generation import Decoding, generate
    from empo.prompts import ChatFormat

    corpus = load_corpus(settings.dialogues, settings.split, settings.mapping)
    print(corpus.summary())
    exchanges = corpus.exchanges()
    if settings.subset == "published":
        exchanges = published_subset(exchanges)
    exchanges = exchanges[: settings.limit]
    best_of = chooser(settings, exchanges)

    source = models.resolve(
        settings.model,
        settings.adapter,
        settings.revision,
        trust_remote_code=settings.trust_remote_code,
    )
    tokenizer = models.load_tokenizer(source)
    short = settings.system == LENGTH_CONTROLLED
    trained_with = source.run.get("system_message", SYSTEM_MESSAGE)
    message = settings.system_message or (LENGTH_CONTROLLED_MESSAGE if short else trained_with)
    chat = ChatFormat(tokenizer, settings.chat_template, message, training=False)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = models.load_model(
        source,
        settings.dtype,
        load_in_4bit=settings.load_in_4bit,
        device=None if settings.load_in_4bit else device,
    ).eval()
    decoding = Decoding(
        max_new_tokens=settings.max_new_tokens or (30 if short else 60),
        temperature=settings.decoding_temperature,
        top_p=settings.top_p,
        batch_size=settings.batch_size,
        seed=settings.seed,
        max_prompt_tokens=settings.max_prompt_tokens,
        cut_at_sentence=short,
    )
    facts = {
        "model": source.facts(),
        "trained": trained_by(source.run),
        "reward": source.run.get("reward"),
        "dtype": "4bit" if settings.load_in_4bit else settings.dtype,
        "data": {
            "files": corpus.files,
            "subset": settings.subset,
            "exchanges": len(exchanges),
            "mapping": file_facts(settings.mapping) if settings.mapping else None,
        },
    }
    manifest = generate(
        model, chat, exchanges, settings.system, settings.output, decoding, facts, best_of
    )
    print(
        f"{manifest['responses']:,} replies of {settings.system}, {manifest['finished']:,} ended by "
        f"themselves, {manifest['empty']:,} empty: {settings.output}"
    )
    if best_of is not None:
        print(told(manifest["chosen"], best_of.n))
    return 0


def chooser(settings: GenerateSettings, exchanges: Sequence[Exchange]) -> BestOf | None:
    """Who chooses among several replies, if anybody does; at equal length, as on human replies."""
    if settings.best_of is None or settings.rater is None:
        return None
    judge, raters, effect = load_judge(settings, settings.rater, exchanges, settings.device)
    return BestOf(settings.best_of, judge, raters, effect)


def told(chosen: dict[str, Any], n: int) -> str:
    """What choosing did, in a sentence or two."""
    score, length = chosen["mean_score"], chosen["mean_characters"]
    if score["best"] is None:
        return f"best of {n}: no reply has a score; the first was kept everywhere"
    return (
        f"best of {n}: mean score {score['best']:.3f} (of all replies {score['all']:.3f}), "
        f"{length['best']:.0f} characters (of all {length['all']:.0f}); {chosen['tied']:,} ties went "
        f"to the first, {chosen['unrated']:,} exchanges have no score"
    )


def trained_by(run: dict[str, Any]) -> dict[str, Any] | None:
    """The run that made a model and the rule of its pairs, without places; None: no run is known."""
    if "settings" not in run:
        return None
    settings = {
        key: value
        for key, value in run["settings"].items()
        if key not in _PATHS and not key.startswith("hub_")
    }
    trained = {"command": run["command"], "seed": run.get("seed"), "settings": settings}
    rule = pair_rule(run)
    return trained if rule is None else {**trained, "pairs": rule}


if __name__ == "__main__":
    run(main)

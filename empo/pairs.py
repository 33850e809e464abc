"""`empo pairs`: preference pairs of every epoch, drawn or mined, as files that any trainer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from empo.choosing import Judge
from empo.corpora import load_corpus
from empo.dialogues import Exchange
from empo.emotions import LABELS, OPPOSITES, load_opposites
from empo.judging import JudgeSettings, load_judge
from empo.length_effect import LengthEffect
from empo.mining.choice import Choose, Rule
from empo.preferences import Draws, pairs, write_pairs
from empo.runs import alone, versions
from empo.settings import option, parse


@dataclass(kw_only=True)
class PairsSettings(JudgeSettings):
    """Settings of `empo pairs`."""

    dialogues: str = option(help="corpus: file, folder with one file per split, or hub:owner/name")
    output: str = option(help="folder for epoch-0.jsonl, epoch-1.jsonl, ... and manifest.json")
    split: str = option("train", help="split of a folder or hub corpus")
    limit: int | None = option(None, help="only the first N dialogues")
    epochs: int = option(3, help="number of epochs to draw")
    seed: int = option(42, help="seed of the draw")
    format: Literal["jsonl", "parquet"] = option("jsonl", help="jsonl or parquet")
    opposites: str | None = option(None, help="own table: csv with label, opposite, source")
    mapping: str | None = option(None, help="YAML with the column names of another corpus")
    system_message: str | None = option(None, help="system message put before every prompt")
    show: int = option(3, help="number of pairs printed for a reader")
    candidates: int | None = option(
        None,
        help="opposite replies drawn per exchange and epoch, to choose from (default: --rejected)",
    )
    rejected: int = option(1, help="rejected replies per exchange and epoch, a pair each")
    choose: Choose = option(
        "random", help="by --rater: hardest takes the highest-scored candidate, easiest the lowest"
    )
    margin: float | None = option(
        None, help="keep a pair only if score(chosen) - score(rejected) is at least this"
    )
    min_pairs: int | None = option(
        None, help="fewest exchanges an epoch must keep (default: 100, or 1 % of them if less)"
    )
    on_topic: int | None = option(
        None, help="draw only from the N opposite replies given in the most similar contexts"
    )
    encoder: str = option(
        "minilm", help="encoder of the contexts: minilm (packaged), folder, hub id"
    )
    embedding_cache: str | None = option(
        None, help="SQLite file with earlier embeddings (default: in the user's cache folder)"
    )
    batch_size: int = option(32, help="texts that rater and encoder read at once")
    device: str | None = option(None, help="cpu, cuda, ... (default: cuda where there is one)")

    @property
    def rule(self) -> Rule:
        """How rejected replies are chosen among candidates."""
        return Rule(self.choose, self.rejected, self.margin)

    @property
    def mined(self) -> bool:
        """Whether anything but the plain draw is asked for."""
        return bool(
            self.rater or self.on_topic or self.rejected > 1 or self.rule.selects or self.candidates
        )

    @property
    def several(self) -> int:
        """Candidates per exchange and epoch."""
        return self.rejected if self.candidates is None else self.candidates

    def problems(self) -> list[str]:
        """What cannot work."""
        found = []
        if self.epochs < 1:
            found.append(f"--epochs: {self.epochs} is too few; at least 1 is needed.")
        for name in ("rejected", "candidates", "on_topic", "min_pairs", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"--{name.replace('_', '-')}: {value} is below 1.")
        if self.several < self.rejected:
            found.append(
                f"--candidates: {self.several} are fewer than the {self.rejected} of --rejected."
            )
        if self.choose != "random" and self.several == self.rejected:
            found.append(
                f"--choose {self.choose}: of {self.several} candidates {self.rejected} are rejected, "
                "so there is no choice; give more --candidates."
            )
        if self.several > self.rejected and not self.rule.selects:
            found.append("--candidates: nothing chooses among them; give --choose or --margin.")
        if self.rule.selects and self.rater is None:
            found.append("--choose and --margin go by scores; give a rater as --rater DIR.")
        if self.margin is None and self.min_pairs is not None:
            found.append("--min-pairs: it is for --margin, which is not given.")
        if self.rater is None:
            found += self.needless("--rater DIR")
        if self.on_topic is not None and self.on_topic < self.several:
            found.append(
                f"--on-topic: {self.several} candidates cannot be drawn from the {self.on_topic} "
                "nearest; give at least as many."
            )
        return found


def pairs_command(argv: Sequence[str]) -> int:
    """Preference pairs of every epoch, as files that any trainer reads.

    The human reply is chosen; a reply given to a speaker with the opposite emotion is rejected and
    drawn anew in every epoch. The same seed gives the same files. With a rater the rejected reply is
    chosen among several, or pairs too close in score are left out; --on-topic takes replies from
    similar contexts (docs/pairs.md).

    Example: empo pairs --dialogues data/sample --epochs 3 --output pairs
    Example: empo pairs --dialogues ED --output hard --rater runs/raters/levels --candidates 4
    --choose hardest --on-topic 32
    """
    (settings,) = parse(
        argv, PairsSettings, prog="empo pairs", description=pairs_command.__doc__ or ""
    )
    table = load_opposites(settings.opposites) if settings.opposites else dict(OPPOSITES)
    labels = None if settings.opposites else LABELS  # an own table must be total over the corpus
    corpus = load_corpus(
        settings.dialogues, settings.split, settings.mapping, labels=labels, limit=settings.limit
    )
    print(corpus.summary())
    exchanges = corpus.exchanges()
    draws = Draws(exchanges, table, settings.seed)
    facts = {
        "corpus": corpus.facts(),
        "opposites": {name: {"opposite": o.label, "source": o.source} for name, o in table.items()},
    }
    output = Path(settings.output)
    with alone(output.with_name(f".{output.name}.lock"), output):
        if settings.mined:
            return mine(settings, draws, exchanges, facts)
        statistics = write_pairs(
            draws,
            exchanges,
            settings.epochs,
            output,
            facts,
            system_message=settings.system_message,
            file_format=settings.format,
        )
    _print_pairs(statistics, draws.pool_sizes())
    _print_rows(list(islice(pairs(draws, exchanges, 0), settings.show)))
    print(f"\n{len(exchanges):,} pairs x {settings.epochs} epochs in {settings.output}")
    return 0


def mine(
    settings: PairsSettings, draws: Draws, exchanges: Sequence[Exchange], facts: dict[str, Any]
) -> int:
    """Draw candidates, choose, write."""
    from empo.mining.candidates import Candidates, Drawn, OnTopic
    from empo.mining.epochs import Mine, fewest_pairs, require_enough
    from empo.pair_files import write_pair_files

    judge, behind, effect = judge_of(settings, exchanges)
    candidates: Candidates = Drawn(draws, settings.several)
    mining: dict[str, Any] = {
        "candidates": settings.several,
        **settings.rule.facts(),
        "on_topic": None,
        "judge": {**judge.facts(), "raters": behind} if judge else None,
    }
    if settings.on_topic is not None:
        vectors, mining["on_topic"] = embedded(settings, exchanges)
        candidates = OnTopic(draws, exchanges, vectors, settings.on_topic, settings.several)
    miner = Mine(draws, exchanges, candidates, settings.rule, judge, settings.several)
    epochs = [miner.epoch(number) for number in range(settings.epochs)]
    fewest = fewest_pairs(settings.min_pairs, len(exchanges))
    require_enough(epochs, fewest, settings.margin)
    write_pair_files(
        settings.output,
        map(miner.rows, epochs),
        asked={
            "seed": draws.seed,
            "system_message": settings.system_message,
            "mining": mining,
            **facts,
        },
        told={
            "epochs": settings.epochs,
            "pool_sizes": draws.pool_sizes(),
            "selected_by": behind if settings.rule.selects else None,
            "length_effect": effect.facts() if effect else None,
            "statistics": [epoch.facts for epoch in epochs],
            "versions": versions(),
        },
        file_format=settings.format,
    )
    for epoch in epochs:
        print(told(epoch.facts, len(exchanges)))
    _print_rows(list(islice(miner.rows(epochs[0]), settings.show)))
    total = sum(epoch.facts["pairs"] for epoch in epochs)
    print(f"\n{total:,} pairs in {settings.epochs} epochs in {settings.output}")
    return 0


def judge_of(
    settings: PairsSettings, exchanges: Sequence[Exchange]
) -> tuple[Judge | None, list[dict[str, str]], LengthEffect | None]:
    """Who scores, if anybody does, the raters behind it, and how the score goes with length."""
    if settings.rater is None:
        return None, [], None
    return load_judge(settings, settings.rater, exchanges, settings.device, settings.batch_size)


def embedded(settings: PairsSettings, exchanges: Sequence[Exchange]) -> tuple[Any, dict[str, Any]]:
    """Unit vectors of the contexts, and what they were made with."""
    from empo.raters.embeddings import CachedEmbedder
    from empo.raters.rating_store import default_store

    store = settings.embedding_cache or default_store().with_name("embeddings.sqlite")
    embedder = CachedEmbedder(settings.encoder, store, settings.device)
    contexts = ["\n".join(turn.text for turn in exchange.context) for exchange in exchanges]
    vectors = embedder.embed(contexts, settings.batch_size)
    facts = {"nearest": settings.on_topic, "encoder": embedder.facts()}
    return vectors, {**facts, "contexts_cut": embedder.cut}


def told(facts: dict[str, Any], exchanges: int) -> str:
    """One mined epoch in words."""
    dropped = ", ".join(f"{reason} {n:,}" for reason, n in facts["dropped"].items())
    text = (
        f"epoch {facts['epoch']}: {facts['pairs']:,} pairs of {facts['exchanges']:,} of "
        f"{exchanges:,} exchanges (left out: {dropped or 'none'}); "
        f"{facts['distinct_rejected']:,} different replies rejected, one at most "
        f"{facts['most_uses_of_a_reply']:,} times; characters: chosen "
        f"{facts['mean_chosen_characters']:.1f}, rejected {facts['mean_rejected_characters']:.1f}, "
        f"candidates {facts['mean_candidate_characters']:.1f}"
    )
    if facts["margins"]:
        text += f"; margin: median {facts['margins']['0.5']:g}"
    if facts["short_of_candidates"]:
        text += f"; {facts['short_of_candidates']:,} exchanges had fewer candidates than asked for"
    return text


def _print_pairs(statistics: list[dict[str, Any]], pools: dict[str, int]) -> None:
    print(f"\npools of opposite replies: {min(pools.values())} to {max(pools.values())} replies")
    print("epoch  pairs  distinct rejected  most uses  new draws  chosen chars  rejected chars")
    for row in statistics:
        print(
            f"{row['epoch']:>5}  {row['pairs']:>5}  {row['distinct_rejected']:>17}  "
            f"{row['most_uses_of_a_reply']:>9}  {row['changed']:>9.1%}  "
            f"{row['mean_chosen_characters']:>12.1f}  {row['mean_rejected_characters']:>14.1f}"
        )


def _print_rows(shown: list[dict[str, Any]]) -> None:
    for pair in shown:
        print(f"\n{pair['id']}  {pair['emotion']} (opposite: {pair['opposite']})")
        for message in pair["prompt"]:
            print(f"  {message['role']:>9}: {message['content']}")
        print(f"     chosen: {pair['chosen'][0]['content']}{_scored(pair, 'score_chosen')}")
        print(
            f"   rejected: {pair['rejected'][0]['content']}  [{pair['rejected_id']}]"
            f"{_scored(pair, 'score_rejected')}"
        )


def _scored(pair: dict[str, Any], key: str) -> str:
    return "" if pair.get(key) is None else f"  ({pair[key]:.3g})"

"""What `eval/responses.py` is given, loaded: settings, responses by system, raters and encoders."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from empo.rating import Rater
from empo.records import (
    RESPONSES_SCHEMA,
    Response,
    UserError,
    file_facts,
    read_json,
    read_responses,
    shown,
)
from empo.settings import option
from empo.suites import HELP as SUITE
from empo.suites import load_suite, suite_path

PUBLISHED_EXCHANGES = 2_540


SOURCES = {
    "diff_epitome": "rater",
    "bertscore": "bertscore_model",
    "nidf": "nidf_table",
    "iva": "lexicons",
}
"""Metric -> the setting that names what only it needs."""


@dataclass
class ResponsesSettings:
    """What to measure and with which files."""

    output: str = option(help="folder for results.json, report.md and the figures")
    responses: list[str] | None = option(
        None, help="responses files; the key `system` of a line names its column"
    )
    dialogues: str | None = option(
        None, help="corpus file or folder whose human references are measured"
    )
    split: str = option("test", help="split of the corpus")
    subset: Literal["published"] | None = option(
        None, help="published: the 2,540 test exchanges of the EmPO paper, its rows beside ours"
    )
    metrics: list[str] | str | None = option(
        None, help="names separated by commas; all that can run if not given"
    )
    nidf_table: str | None = option(None, help="table made by `empo nidf-table`, for nidf")
    lexicons: str | None = option(
        None, help="folder with the NRC lexicons, for iva ($EMPO_DATA/lexicons where that exists)"
    )
    intensity_rows: Literal["last", "maximum"] = option(
        "last", help="value of a word with several emotions: its last row or its maximum"
    )
    rater: list[str] | None = option(
        None, help="rater folders, for diff_epitome: together all three EPITOME mechanisms"
    )
    ratings: list[str] | None = option(
        None, help="rater folders whose scores are columns; several stand side by side"
    )
    bertscore_model: str | None = option(
        None, help="encoder for bertscore: minilm (packaged), a folder, or a hub id (roberta-large)"
    )
    bertscore_layer: int | None = option(
        None, help="its layer (the model's usual one if not given)"
    )
    bertscore_idf: bool = option(False, help="weigh tokens by their rarity in the references")
    bertscore_rescale: bool = option(False, help="rescale with the baseline of a hub model")
    rater_cache: str | None = option(
        None, help="file that keeps ratings for the next time (OUTPUT/ratings.sqlite if not given)"
    )
    bertscore_cache: str | None = option(
        None, help="file that keeps BERTScores likewise (OUTPUT/bertscores.sqlite if not given)"
    )
    overwrite: bool = option(
        False, help="replace results of other responses that lie in the output folder"
    )
    suite: str | None = option(None, help=SUITE)
    resamples: int = option(9_999, help="permutations and bootstrap samples of every comparison")
    minimum_shared: float = option(
        0.5, help="least share of every system's responses that all systems must have answered"
    )
    seed: int = option(0, help="seed of resampling and of the samples shown")

    @property
    def asked(self) -> list[str]:
        """Metrics asked for by name, or by giving what only they need."""
        given = [self.metrics] if isinstance(self.metrics, str) else self.metrics or []
        names = [name.strip() for words in given for name in words.split(",")]
        added = not self.metrics or self.of_suite("metrics")  # --metrics alone says all there is
        implied = [
            metric
            for metric, key in SOURCES.items()
            if getattr(self, key) and metric not in names and added and not self.of_suite(key)
        ]
        return [name for name in names if name] + implied

    def of_suite(self, key: str) -> bool:
        """Whether a setting has the value that the suite gives it."""
        if self.suite is None:
            return False
        return load_suite(suite_path(self.suite)).get("responses", {}).get(key) == getattr(
            self, key
        )

    def problems(self) -> list[str]:
        """Combinations that cannot be measured."""
        from empo.metrics.evaluation import METRICS

        found = []
        if self.responses is None and self.dialogues is None:
            found.append("give --responses FILE... or --dialogues FILE_OR_DIR (or both).")
        if self.rater_cache is not None and self.rater is None and self.ratings is None:
            found.append("--rater-cache: there is nothing to keep without --rater or --ratings.")
        if not 0 < self.minimum_shared <= 1:
            found.append(f"--minimum-shared: {self.minimum_shared} is not in (0, 1].")
        if self.resamples < 99:
            found.append(f"--resamples: {self.resamples} is too few for an interval; at least 99.")
        if unknown := [name for name in self.asked if name not in METRICS]:
            found.append(
                f"--metrics: no such metric: {', '.join(unknown)}; known: {', '.join(METRICS)}."
            )
        return found


def load_sources(
    settings: ResponsesSettings, output: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Table, lexicons, rater and encoder of the metrics that are wanted; and why one cannot be had.

    Raises UserError where a file that was named cannot be used.
    """
    from empo.metrics.evaluation import METRICS
    from empo.metrics.iva import load_lexicons
    from empo.metrics.nidf import load_table

    wanted = settings.asked if settings.metrics else METRICS
    for metric, key in SOURCES.items():
        if getattr(settings, key) and metric not in wanted and not settings.of_suite(key):
            flag = f"--{key.replace('_', '-')}"
            print(f"{flag} is not used: --metrics does not name {metric}.", file=sys.stderr)
    found: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    if settings.nidf_table and "nidf" in wanted:
        found["nidf_table"] = load_table(settings.nidf_table)
    folder = Path(os.environ.get("EMPO_DATA", os.devnull)) / "lexicons"
    if "iva" in wanted and (settings.lexicons or folder.is_dir()):
        try:
            found["lexicons"] = load_lexicons(settings.lexicons or folder, settings.intensity_rows)
        except UserError as error:
            if settings.lexicons:
                raise
            unavailable["iva"] = str(error)  # nobody asked for the files that lie there
    if settings.rater and "diff_epitome" in wanted:
        absent = [path for path in settings.rater if not Path(path).exists()]
        if absent:
            unavailable["diff_epitome"] = (
                f"no rater in {', '.join(absent)}: train one with recipes/rater.py (docs/raters.md), "
                "give its folder as --rater DIR."
            )
        else:
            from empo.raters.combined import CachedRater
            from empo.raters.loading import load_raters

            cache = settings.rater_cache or output / "ratings.sqlite"
            found["rater"] = CachedRater(load_raters(settings.rater), cache)
    if settings.bertscore_model and "bertscore" in wanted:
        from empo.metrics.bertscore import load_scorer

        try:
            found["scorer"] = load_scorer(
                settings.bertscore_model,
                settings.bertscore_layer,
                idf=settings.bertscore_idf,
                rescale=settings.bertscore_rescale,
                cache=settings.bertscore_cache or output / "bertscores.sqlite",
            )
        except UserError as error:
            unavailable["bertscore"] = str(error)
    return found, unavailable


def load_columns(settings: ResponsesSettings, output: Path) -> dict[str, Rater]:
    """The raters of `--ratings` by the name of their folder, behind the file that keeps ratings.

    Raises UserError where a folder is no rater, or two have one name.
    """
    from empo.raters.combined import CachedRater
    from empo.raters.loading import lazy_rater

    found: dict[str, Rater] = {}
    for folder in settings.ratings or ():
        name = Path(folder).resolve().name
        if name in found:
            raise UserError(f"--ratings: two folders are called {name!r}; rename one of them.")
        cache = settings.rater_cache or output / "ratings.sqlite"
        found[name] = CachedRater(lazy_rater(folder), cache)
    return found


def refuse_other_results(output: Path, inputs: list[dict[str, Any]]) -> None:
    """Raise UserError where `output` has results of responses that are not among the inputs."""
    path = output / "results.json"
    if not path.is_file():
        return
    there = read_json(path)
    before = there.get("inputs") if isinstance(there, dict) else None
    if not (isinstance(before, list) and all(isinstance(entry, dict) for entry in before)):
        raise UserError(
            f"{path}: this file is not of eval/responses.py. Choose another --output, or replace it "
            "with --overwrite."
        )
    if other := [_named(entry) for entry in before if not any(map(partial(_same, entry), inputs))]:
        raise UserError(
            f"{path}: these are results of {', '.join(other)}, which is not what is given now. "
            "Choose another --output, or replace them with --overwrite."
        )


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two entries of `inputs` have the same content, wherever it lies."""
    return all(one.get(key) == other.get(key) for key in ("sha256", "files", "split"))


def _named(entry: dict[str, Any]) -> str:
    """An entry of `inputs` in a person's words: of a corpus its source, of a file name and digest."""
    if "sha256" in entry:
        return f"{str(entry.get('file'))[:80]} (sha256 {str(entry['sha256'])[:12]})"
    return f"{str(entry.get('source'))[:200]} [{str(entry.get('split'))[:40]}]"


def load_systems(
    settings: ResponsesSettings,
) -> tuple[dict[str, list[Response]], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Responses by system (of the subset only), facts of the files read, and by system what is known
    of its model: `trained`, `reward`."""
    from empo.corpora import load_corpus, published_ids, published_subset
    from empo.metrics.shared_exchanges import HUMAN, human_responses

    systems: dict[str, dict[str, Response]] = {}
    facts: list[dict[str, Any]] = []
    noted: dict[str, dict[str, Any]] = {}
    published = settings.subset == "published"
    if settings.dialogues is not None:
        corpus = load_corpus(settings.dialogues, settings.split)
        print(corpus.summary(), file=sys.stderr)
        exchanges = published_subset(corpus.exchanges()) if published else corpus.exchanges()
        systems[HUMAN] = {reply.id: reply for reply in human_responses(exchanges)}
        facts.append(corpus.facts())
    for path in settings.responses or ():
        known = _noted(Path(f"{path}.manifest.json"))
        for response in read_responses(path):
            noted |= {response.system: known} if known else {}
            replies = systems.setdefault(response.system, {})
            if response.id in replies:
                raise UserError(
                    f"{path}, field 'id': {response.id!r} of system {response.system!r} was read "
                    "already. Give every system once."
                )
            replies[response.id] = response
        facts.append(file_facts(path))
    for name, replies in systems.items() if published else ():
        kept = published_ids(replies)
        if len(kept) != PUBLISHED_EXCHANGES:
            raise UserError(
                f"--subset published: {name!r} has {len(kept):,} of the {PUBLISHED_EXCHANGES:,} "
                "exchanges. Leave the option out, or give responses to the whole test split."
            )
        systems[name] = {key: reply for key, reply in replies.items() if key in kept}
    return {name: list(replies.values()) for name, replies in systems.items()}, facts, noted


def _noted(manifest: Path) -> dict[str, Any]:
    """What recipes/generate.py has noted beside a responses file of the model behind it: how it was
    `trained`, and `reward`, the raters that chose its replies or rewarded its training.

    Raises UserError where the manifest names raters in another form than {name, weights}.
    """
    known = read_json(manifest) if manifest.is_file() else None
    if not isinstance(known, dict) or known.get("schema") != RESPONSES_SCHEMA:
        return {}  # somebody else's file
    behind: list[Any] = []
    for field in ("selected_by", "reward"):
        entries = known.get(field) or []
        behind += entries if isinstance(entries, list) else [entries]
    for rater in behind:
        named = isinstance(rater, dict) and all(
            isinstance(rater.get(key), str) for key in ("name", "weights")
        )
        if not named:
            raise UserError(
                f"{manifest}, fields 'selected_by' and 'reward': lists of objects with name and "
                f"weights are expected, not {shown(rater)}."
            )
    noted = {"trained": known.get("trained"), "reward": behind}
    return {key: value for key, value in noted.items() if value}

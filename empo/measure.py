"""What `eval/responses.py` is given, loaded: settings, responses by system, raters and encoders."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from empo.records import Response, UserError, file_facts, read_json, read_responses
from empo.settings import option
from empo.suites import HELP as SUITE
from empo.suites import load_suite, suite_path

PUBLISHED_EXCHANGES = 2_540


MODELS = {"diff_epitome": "rater", "bertscore": "bertscore_model"}
"""Metric -> the setting that names its model."""


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
    metrics: str | None = option(
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
    suite: str | None = option(None, help=SUITE)
    resamples: int = option(9_999, help="permutations and bootstrap samples of every comparison")
    minimum_shared: float = option(
        0.5, help="least share of every system's responses that all systems must have answered"
    )
    seed: int = option(0, help="seed of resampling and of the samples shown")

    @property
    def asked(self) -> list[str]:
        """Metrics asked for by name, or by giving the model that only they use."""
        names = [name.strip() for name in (self.metrics or "").split(",")]
        added = not self.metrics or self._of_suite("metrics")  # --metrics alone says all there is
        implied = [
            metric
            for metric, key in MODELS.items()
            if getattr(self, key) and metric not in names and added and not self._of_suite(key)
        ]
        return [name for name in names if name] + implied

    def _of_suite(self, key: str) -> bool:
        """Whether a setting has the value that the suite gives it."""
        if self.suite is None:
            return False
        return load_suite(suite_path(self.suite))["responses"].get(key) == getattr(self, key)

    def problems(self) -> list[str]:
        """Combinations that cannot be measured."""
        from empo.metrics.evaluation import METRICS

        found = []
        if self.responses is None and self.dialogues is None:
            found.append("give --responses FILE... or --dialogues FILE_OR_DIR (or both).")
        if self.rater_cache is not None and self.rater is None:
            found.append("--rater-cache: there is nothing to keep without --rater DIR.")
        for metric, key in MODELS.items():
            if getattr(self, key) and metric not in self.asked and not self._of_suite(key):
                found.append(f"--metrics: {metric} is not among them, but its model was given.")
        if not 0 < self.minimum_shared <= 1:
            found.append(f"--minimum-shared: {self.minimum_shared} is not in (0, 1].")
        if self.resamples < 99:
            found.append(f"--resamples: {self.resamples} is too few for an interval; at least 99.")
        if unknown := [name for name in self.asked if name not in METRICS]:
            found.append(
                f"--metrics: no such metric: {', '.join(unknown)}; known: {', '.join(METRICS)}."
            )
        return found


def load_models(settings: ResponsesSettings, output: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The rater and the BERTScore encoder that are wanted; and why one cannot be had."""
    wanted = settings.asked if settings.metrics else ("diff_epitome", "bertscore")
    models: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    if settings.rater and "diff_epitome" in wanted:
        from empo.raters.combined import CachedRater
        from empo.raters.loading import load_raters

        cache = settings.rater_cache or output / "ratings.sqlite"
        absent = [folder for folder in settings.rater if not Path(folder).exists()]
        if absent:
            unavailable["diff_epitome"] = (
                f"no rater in {', '.join(absent)}: train one with recipes/rater.py (docs/raters.md), "
                "give its folder as --rater DIR."
            )
        else:
            models["rater"] = CachedRater(load_raters(settings.rater), cache)
    if settings.bertscore_model and "bertscore" in wanted:
        from empo.metrics.bertscore import load_scorer

        try:
            models["scorer"] = load_scorer(
                settings.bertscore_model,
                settings.bertscore_layer,
                idf=settings.bertscore_idf,
                rescale=settings.bertscore_rescale,
            )
        except UserError as error:
            unavailable["bertscore"] = str(error)
    return models, unavailable


def load_systems(
    settings: ResponsesSettings,
) -> tuple[dict[str, list[Response]], list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Responses by system (of the subset only), facts of the files read, training by system."""
    from empo.corpora import load_corpus, published_ids, published_subset
    from empo.metrics.shared_exchanges import HUMAN, human_responses

    systems: dict[str, dict[str, Response]] = {}
    facts: list[dict[str, Any]] = []
    trained: dict[str, dict[str, Any]] = {}
    published = settings.subset == "published"
    if settings.dialogues is not None:
        corpus = load_corpus(settings.dialogues, settings.split)
        print(corpus.summary(), file=sys.stderr)
        exchanges = published_subset(corpus.exchanges()) if published else corpus.exchanges()
        systems[HUMAN] = {reply.id: reply for reply in human_responses(exchanges)}
        facts.append(corpus.facts())
    for path in settings.responses or ():
        for response in read_responses(path):
            replies = systems.setdefault(response.system, {})
            if response.id in replies:
                raise UserError(
                    f"{path}, field 'id': {response.id!r} of system {response.system!r} was read "
                    "already. Give every system once."
                )
            replies[response.id] = response
        facts.append(file_facts(path))
        manifest = Path(f"{path}.manifest.json")
        if manifest.is_file() and (known := read_json(manifest)).get("trained"):
            trained[known["system"]] = known["trained"]
    for name, replies in systems.items() if published else ():
        kept = published_ids(replies)
        if len(kept) != PUBLISHED_EXCHANGES:
            raise UserError(
                f"--subset published: {name!r} has {len(kept):,} of the {PUBLISHED_EXCHANGES:,} "
                "exchanges. Leave the option out, or give responses to the whole test split."
            )
        systems[name] = {key: reply for key, reply in replies.items() if key in kept}
    return {name: list(replies.values()) for name, replies in systems.items()}, facts, trained

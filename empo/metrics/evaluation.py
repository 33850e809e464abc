"""All metrics of all systems, all paired comparisons: responses in, content of results.json out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from empo.metrics import MetricResult
from empo.metrics.bertscore import bertscore
from empo.metrics.comparisons import compare_all
from empo.metrics.diff_epitome import RatedOnce, diff_epitome, require_mechanisms
from empo.metrics.distinct_n import distinct_n
from empo.metrics.emotion_shares import emotion_shares
from empo.metrics.iva import GET_THEM, Lexicons, iva
from empo.metrics.length import length
from empo.metrics.nidf import NidfTable, nidf
from empo.metrics.repetition import repetition
from empo.metrics.samples import choose
from empo.metrics.self_bleu import self_bleu
from empo.metrics.shared_exchanges import HUMAN, MINIMUM_SHARED, align, digest
from empo.metrics.statistics import RESAMPLES
from empo.metrics.trie import trie
from empo.rating import Rater
from empo.records import RESULTS_SCHEMA, Response, finite
from empo.runs import now, versions

if TYPE_CHECKING:
    from empo.metrics.bertscore import Scorer

Metric = Callable[[Sequence[Response]], MetricResult]

NEEDED = {
    "nidf": "no table: build one with `empo nidf-table`, give it as --nidf-table.",
    "iva": f"no lexicons: {GET_THEM} Give it as --lexicons.",
    "diff_epitome": "no rater: train one of the three EPITOME mechanisms with recipes/rater.py, "
    "give its folder as --rater DIR.",
    "bertscore": "no encoder: name one as --bertscore-model (roberta-large is the paper's; minilm "
    "is small and needs no download).",
    "emotion_shares": "the package NRCLex is missing: `pip install empo[eval]`.",
}
"""Metric -> what it cannot run without, and how to get it."""

METRICS = (
    "diff_epitome",
    "bertscore",
    "trie",
    "distinct_n",
    "self_bleu",
    "nidf",
    "iva",
    "emotion_shares",
    "repetition",
    "length",
)
"""Every metric that can be asked for by name."""


def evaluate(
    systems: Mapping[str, Sequence[Response]],
    *,
    seed: int = 0,
    nidf_table: NidfTable | None = None,
    lexicons: Lexicons | None = None,
    rater: Rater | None = None,
    scorer: Scorer | None = None,
    metrics: Iterable[str] = METRICS,
    extra: Mapping[str, Metric] | None = None,
    unavailable: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    minimum_shared: float = MINIMUM_SHARED,
) -> dict[str, Any]:
    """Measure systems and human references on the exchanges that all systems share.

    `systems` maps a name to the system's responses; the human references are added as `human`, the
    last column. A metric that cannot run (`nidf` without its table, `iva` without its lexicons,
    `diff_epitome` without a rater, `bertscore` without a scorer) stands in `not_run` with the
    reason; `unavailable` has reasons of its own. `extra` maps the names of further metrics, defined
    by a corpus or a user, to their functions; they are measured and compared like the others.

    Returns the content of results.json: JSON values only, no NaN; beside a None stand `reasons`.
    `warnings` are sentences of the rater that every report repeats. `per_response` has a row of
    values per system and exchange; it is written into a file of its own.

    Raises UserError where systems share too few exchanges (`minimum_shared`) or disagree on one,
    and where a rater does not fit DIFF-EPITOME.
    """
    aligned, left_out = align(systems, minimum_shared)
    asked = [name for name in METRICS if name in set(metrics)]
    ready = _ready(seed, nidf_table, lexicons, rater if "diff_epitome" in asked else None, scorer)
    reasons = {**NEEDED, **(unavailable or {})}
    if list(aligned) == [HUMAN] and ready.pop("bertscore", None):
        reasons["bertscore"] = "there are only references, which equal themselves."
    ready = {name: ready[name] for name in asked if name in ready} | dict(extra or {})

    measured, comparisons = _measure(aligned, ready, seed, resamples)
    return {
        "schema": RESULTS_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seed": seed,
        "resamples": resamples,
        "left_out": left_out,
        "signatures": {
            name: next(of[name].signature for of in measured.values() if name in of)
            for name in ready
        },
        "systems": {
            system: {
                "n": len(aligned[system]),
                "digest": digest(aligned[system]),
                "trained": None,
                "reasons": {
                    "trained": "no manifest of recipes/generate.py beside the responses says it"
                },
                "metrics": {name: result.values for name, result in results.items()},
            }
            for system, results in measured.items()
        },
        "comparisons": comparisons,
        "not_run": [
            {"metric": name, "reason": reasons[name]} for name in asked if name not in ready
        ],
        "samples": choose(aligned, measured, seed),
        "warnings": _warnings(measured),
        "per_response": _per_response(aligned, measured),
    }


def _ready(
    seed: int,
    nidf_table: NidfTable | None,
    lexicons: Lexicons | None,
    rater: Rater | None,
    scorer: Scorer | None,
) -> dict[str, Metric]:
    """Every metric that has what it needs, as a function of the responses alone."""
    ready: dict[str, Metric] = {
        "trie": trie,
        "distinct_n": distinct_n,
        "self_bleu": partial(self_bleu, seed=seed),
        "repetition": partial(repetition, seed=seed),
        "length": partial(length, seed=seed),
    }
    if nidf_table is not None:
        ready["nidf"] = partial(nidf, table=nidf_table, seed=seed)
    if lexicons is not None:
        ready["iva"] = partial(iva, lexicons=lexicons, seed=seed)
    if rater is not None:
        require_mechanisms(rater)  # before minutes of other metrics
        ready["diff_epitome"] = partial(diff_epitome, rater=RatedOnce(rater), seed=seed)
    if scorer is not None:
        ready["bertscore"] = partial(bertscore, scorer=scorer, seed=seed)
    if importlib.util.find_spec("nrclex") is not None:
        ready["emotion_shares"] = partial(emotion_shares, seed=seed)
    return ready


def _measure(
    aligned: Mapping[str, Sequence[Response]],
    ready: Mapping[str, Metric],
    seed: int,
    resamples: int,
) -> tuple[dict[str, dict[str, MetricResult]], list[dict[str, Any]]]:
    """System -> metric -> result, and the comparisons; `human` has no BERTScore, it would be 1."""
    pairs = len(aligned) * (len(aligned) - 1) // 2
    with tqdm(
        total=len(aligned) * len(ready) + pairs, delay=2, disable=None, desc="metrics"
    ) as bar:
        measured: dict[str, dict[str, MetricResult]] = {}
        for system, responses in aligned.items():
            measured[system] = {}
            for name, metric in ready.items():
                bar.set_postfix_str(f"{name} of {system}", refresh=False)
                if (system, name) != (HUMAN, "bertscore"):
                    measured[system][name] = metric(responses)
                bar.update()
        bar.set_postfix_str("comparisons", refresh=False)
        return measured, compare_all(aligned, measured, seed, resamples, bar.update)


def _per_response(
    aligned: Mapping[str, Sequence[Response]], measured: Mapping[str, Mapping[str, MetricResult]]
) -> list[dict[str, Any]]:
    """One row per system and exchange; None where a response has no such value."""
    rows = []
    for system, responses in aligned.items():
        columns = {
            key: values.tolist()
            for result in measured[system].values()
            for key, values in result.per_response.items()
        }
        rows += [
            {
                "id": response.id,
                "system": system,
                "emotion": response.emotion,
                "values": {key: finite(values[i]) for key, values in columns.items()},
            }
            for i, response in enumerate(responses)
        ]
    return rows


def _warnings(measured: Mapping[str, Mapping[str, MetricResult]]) -> list[str]:
    """Every warning of a metric once, in the order of systems and metrics."""
    return list(
        dict.fromkeys(
            warning
            for results in measured.values()
            for result in results.values()
            for warning in result.values.get("warnings", ())
        )
    )

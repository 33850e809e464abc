"""All metrics of all systems, all paired comparisons: responses in, content of results.json out."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from tqdm import tqdm

from empo.dialogues import Exchange
from empo.metrics import MetricResult
from empo.metrics.diff_epitome import RatedOnce, diff_epitome, require_mechanisms
from empo.metrics.iva import GET_THEM, Lexicons, iva
from empo.metrics.length import characters, length
from empo.metrics.nidf import NidfTable, nidf
from empo.metrics.statistics import compare, holm
from empo.metrics.trie import trie
from empo.rating import Rater
from empo.records import RESULTS_SCHEMA, Response, UserError
from empo.runs import now, versions

HUMAN = "human"
"""The name under which the human references stand beside the systems."""

SAMPLES = 5

AGAINST_REFERENCE = ("diff_epitome",)
"""Metrics that the references have by construction: no system is compared with `human` in them."""

_NOT_AVAILABLE = {
    "bertscore": "not available in this version.",
    "emotion_shares": "not available in this version.",
    "distinct_n": "not available in this version.",
    "self_bleu": "not available in this version.",
}

METRICS = ("trie", "nidf", "iva", "length", "diff_epitome", *_NOT_AVAILABLE)
"""Every metric that can be asked for by name."""


def evaluate(
    systems: Mapping[str, Sequence[Response]],
    *,
    seed: int = 0,
    nidf_table: NidfTable | None = None,
    lexicons: Lexicons | None = None,
    rater: Rater | None = None,
    metrics: Iterable[str] = METRICS,
    extra: Mapping[str, Callable[[Sequence[Response]], MetricResult]] | None = None,
) -> dict[str, Any]:
    """Measure systems and human references on the exchanges that all systems share.

    `systems` maps a name to the system's responses; the human references are added as `human`, the
    last column. A metric that cannot run (`nidf` without its table, `iva` without its lexicons,
    `diff_epitome` without a rater) stands in `not_run` with the reason. `extra` maps the names of
    further metrics, defined by a corpus or a user, to their functions; they are measured and
    compared like the others. Returns the content of results.json: JSON values only, no NaN; beside
    a None stand `reasons`. `warnings` are sentences of the rater that every report repeats.

    Raises UserError where systems share no exchange or disagree on a reference, and where a rater
    does not fit DIFF-EPITOME.
    """
    aligned, left_out = align(systems)
    ready: dict[str, Callable[[Sequence[Response]], MetricResult]] = {
        "trie": trie,
        "length": lambda responses: length(responses, seed),
    }
    not_run = dict(_NOT_AVAILABLE)
    if nidf_table is None:
        not_run["nidf"] = "no table: build one with `empo nidf-table`, give it as --nidf-table."
    else:
        ready["nidf"] = lambda responses: nidf(responses, nidf_table, seed)
    if lexicons is None:
        not_run["iva"] = f"no lexicons: {GET_THEM} Give it as --lexicons."
    else:
        ready["iva"] = lambda responses: iva(responses, lexicons, seed)
    wanted = set(metrics)
    if rater is None:
        not_run["diff_epitome"] = (
            "no rater: train one of the three EPITOME mechanisms with recipes/rater.py, give its "
            "folder as --rater DIR."
        )
    elif "diff_epitome" in wanted:
        require_mechanisms(rater)  # before minutes of other metrics
        rated = RatedOnce(rater)
        ready["diff_epitome"] = lambda responses: diff_epitome(responses, rated, seed)
    asked = [name for name in METRICS if name in wanted]
    ready |= extra or {}
    names = [name for name in (*asked, *(extra or {})) if name in ready]

    pairs = list(combinations(aligned, 2))
    with tqdm(total=len(aligned) * len(names) + len(pairs), delay=2, desc="metrics") as bar:
        measured: dict[str, dict[str, MetricResult]] = {}
        for system, responses in aligned.items():
            measured[system] = {}
            for name in names:
                measured[system][name] = ready[name](responses)
                bar.update()
        comparisons = []
        for a, b in pairs:
            comparisons += _compare(a, b, aligned, measured, seed)
            bar.update()
    for comparison, p_holm in zip(
        comparisons, holm([comparison["p"] for comparison in comparisons]), strict=True
    ):
        comparison["p_holm"] = p_holm
        if p_holm is None:
            comparison["reasons"]["p_holm"] = "there is no p to correct."
    return {
        "schema": RESULTS_SCHEMA,
        "created": now(),
        "versions": versions(),
        "seed": seed,
        "left_out": left_out,
        "signatures": {name: measured[HUMAN][name].signature for name in names},
        "systems": {
            system: {
                "n": len(aligned[system]),
                "metrics": {name: result.values for name, result in results.items()},
            }
            for system, results in measured.items()
        },
        "comparisons": comparisons,
        "not_run": [
            {"metric": name, "reason": not_run[name]} for name in asked if name not in ready
        ],
        "samples": _samples(aligned, seed),
        "warnings": _warnings(measured),
    }


def human_responses(exchanges: Iterable[Exchange]) -> list[Response]:
    """The human replies of a corpus as the responses of the system `human`."""
    return [
        Response(
            id=exchange.id,
            emotion=exchange.emotion,
            context=exchange.messages(),
            reference=exchange.reply,
            response=exchange.reply,
            system=HUMAN,
        )
        for exchange in exchanges
    ]


def align(
    systems: Mapping[str, Sequence[Response]],
) -> tuple[dict[str, list[Response]], dict[str, int]]:
    """The exchanges that all systems share, in the order of the first, and `human` beside them.

    Returns system -> responses, with `human` last, and system -> number of its responses left out.
    """
    by_id = {name: {r.id: r for r in responses} for name, responses in systems.items()}
    first, *others = by_id
    ids = [key for key in by_id[first] if all(key in by_id[name] for name in others)]
    if not ids:
        raise UserError(f"no exchange has a response of every system ({', '.join(by_id)}).")
    for name in others:
        for key in ids:
            here, there = by_id[first][key].reference, by_id[name][key].reference
            if here != there:
                raise UserError(
                    f"{key}, field 'reference': {here[:60]!r} for {first!r} but {there[:60]!r} for "
                    f"{name!r}. The systems must answer the same exchanges."
                )
    aligned = {name: [by_id[name][key] for key in ids] for name in by_id}
    references = [
        r.model_copy(update={"response": r.reference, "system": HUMAN}) for r in aligned[first]
    ]
    if HUMAN in aligned and [r.response for r in aligned.pop(HUMAN)] != [
        r.response for r in references
    ]:
        raise UserError(
            f"the system name {HUMAN!r} stands for the human references, but its responses are "
            "others. Rename the system."
        )
    aligned[HUMAN] = references
    return aligned, {name: len(by_id[name]) - len(ids) for name in by_id}


def _compare(
    a: str,
    b: str,
    aligned: Mapping[str, Sequence[Response]],
    measured: Mapping[str, Mapping[str, MetricResult]],
    seed: int,
) -> list[dict[str, Any]]:
    """Compare two systems in everything measured; the difference is a - b."""
    lengths = characters(aligned[a]), characters(aligned[b])
    rows: list[dict[str, Any]] = []
    for name, result in measured[a].items():
        other = measured[b][name]
        for key, values in result.per_response.items():
            if HUMAN in (a, b) and key.split(".")[0] in AGAINST_REFERENCE:
                continue
            compared = compare(values, other.per_response[key], *lengths, seed)
            row = {"a": a, "b": b, "metric": key, "reasons": {}, **compared}
            if name == "length":
                row["length_controlled"] = None
                row["reasons"]["length_controlled"] = "length itself"
            rows.append(row)
        if not result.per_response:
            for key, value in result.values.items():
                rows.append(
                    _corpus_level(a, b, f"{name}.{key}", value - other.values[key], result.n)
                )
    return rows


def _corpus_level(a: str, b: str, metric: str, difference: float, n: int) -> dict[str, Any]:
    reason = "a value of the whole set: no response has one of its own"
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "difference": difference,
        "interval": None,
        "p": None,
        "test": "none",
        "n": n,
        "length_controlled": None,
        "reasons": dict.fromkeys(("interval", "p", "length_controlled"), reason),
    }


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


def _samples(aligned: Mapping[str, Sequence[Response]], seed: int) -> list[dict[str, Any]]:
    """Exchanges drawn at random, in their order, with what every system replied."""
    n = len(aligned[HUMAN])
    drawn = sorted(random.Random(seed).sample(range(n), min(SAMPLES, n)))
    return [
        {
            "id": aligned[HUMAN][i].id,
            "emotion": aligned[HUMAN][i].emotion,
            "prompt": aligned[HUMAN][i].prompt,
            "responses": {name: responses[i].response for name, responses in aligned.items()},
        }
        for i in drawn
    ]

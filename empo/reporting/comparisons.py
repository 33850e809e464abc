"""The report's sections on differences between systems: tests, effect sizes, what length explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empo.metrics.statistics import RESAMPLES
from empo.reporting.epitome import LABELS as EPITOME_LABELS
from empo.reporting.epitome import moving_with_length
from empo.reporting.markdown import escape, interval, number, table

LABELS = {
    "bertscore": "BERTScore F1",
    "nidf": "NIDF",
    "iva.intensity": "|ΔI|",
    "iva.valence": "|ΔV|",
    "iva.arousal": "|ΔA|",
    "iva.dominance": "|ΔD|",
    "emotion_shares.overlap": "emotion overlap",
    "repetition": "repeats a 4-gram",
    "length.characters": "characters",
    "length.tokens": "tokens",
    **EPITOME_LABELS,
}
"""Names of the compared values in tables and figures."""

RATINGS = "ratings."
"""How the names of ratings begin: ratings.<rater>.<dimension>."""


def label(key: str) -> str:
    """The name of a compared value in tables and figures."""
    return LABELS.get(key) or key.removeprefix(RATINGS).replace("_", " ")


FEW = 30
"""Exchanges below which an effect size gets no colour in the overview."""

_STRONG = 0.1  # |r| with length from which a metric is said to move with it


def comparisons_section(results: Mapping[str, Any], figure: str | None) -> str:
    """Tests of all pairs in all values, value by value; `figure` is the file of the overview."""
    comparisons = results["comparisons"]
    tested = [row for row in comparisons if row["p"] is not None]
    if not tested:
        return ""
    tests = "; ".join(sorted({row["test"] for row in tested}))
    text = (
        "## Comparisons\n\nPaired by exchange. *Difference* is the mean of the first system minus "
        f"the second with its 95 % bootstrap interval; p is of this test: {escape(tests)}. Holm's "
        f"correction is over all {len(tested)} tests of this section, so it can multiply the "
        f"smallest p by {len(tested)}. Marks, after correction: \\*\\*\\* below .001, \\*\\* below "
        ".01, \\* below .05. A mark says that a difference is unlikely to be chance, not that it "
        "is large or better; how large it is says Cohen's d, *paired* over the spread of the "
        "differences, *pooled* over that of the systems, as papers print it. *At equal length* is "
        "what is left of the difference between replies equally long: the intercept of its "
        "regression on the length difference, with its 95 % interval; † marks an extrapolation, "
        "because one system's reply is the longer one in more than 95 % of the exchanges.\n"
    )
    if (floor := _floor(results, len(tested))) >= 0.05:
        text += (
            f"\n**With {results['resamples']:,} permutations and {len(tested)} tests no corrected p "
            f"can be below {number(floor)}, so nothing can be marked here: measure with more "
            "--resamples.**\n"
        )
    if figure:
        text += (
            "\nOverview: Cohen's d (pooled), with the marks; blue where the first system of the "
            f"pair has more; no colour, and n, where fewer than {FEW} exchanges have the value.\n\n![Cohen's d of every pair in every value]({figure})\n"
        )
    text += _length_matters(tested)
    for metric in dict.fromkeys(row["metric"] for row in tested):
        rows = [_row(row) for row in tested if row["metric"] == metric]
        headers = "pair;difference;p;p (Holm);d paired;d pooled;at equal length;n".split(";")
        text += f"\n### {escape(label(metric))}\n\n" + table(headers, rows)
    if len(tested) < len(comparisons):
        text += (
            "\nDiversity belongs to the whole set of responses: there is no value per response, "
            "hence no test. The differences are in results.json.\n"
        )
    return text


def _length_matters(tested: Sequence[Mapping[str, Any]]) -> str:
    """What the length explains: marked differences that vanish at equal length, and the reverse."""
    lists: dict[str, list[str]] = {"vanish": [], "appear": []}
    for row in tested:
        if (equal := row["length_controlled"]) is None:
            continue
        low, high = equal["interval"]
        inside, marked = low <= 0 <= high, bool(mark(row["p_holm"]))
        if marked == inside:
            name = label(row["metric"])
            lists["vanish" if marked else "appear"].append(f"{name} ({row['a']} − {row['b']})")
    sentences = {
        "vanish": "Marked, but not told from 0 between replies equally long",
        "appear": "Not marked, but the interval between replies equally long, which is not corrected "
        "for the number of tests, leaves 0 out",
    }
    return "".join(
        f"\n{sentences[key]}: {escape('; '.join(names))}.\n"
        for key, names in lists.items()
        if names
    )


def _floor(results: Mapping[str, Any], tests: int) -> float:
    """The smallest p that is possible after Holm's correction."""
    return tests / (results.get("resamples", RESAMPLES) + 1)


def _row(row: Mapping[str, Any]) -> list[str]:
    d = row.get("d") or {}
    return [
        f"{row['a']} − {row['b']}",
        f"{number(row['difference'], 4)} {interval(row['interval'], 4)}",
        number(row["p"], 4),
        f"{number(row['p_holm'], 4)} {mark(row['p_holm'])}".strip(),
        number(d.get("paired"), 2),
        number(d.get("pooled"), 2),
        at_equal_length(row["length_controlled"]),
        str(row["n"]),
    ]


def at_equal_length(equal: Mapping[str, Any] | None) -> str:
    """Intercept of a length-controlled comparison, its interval if any, † where it extrapolates."""
    if equal is None:
        return "—"
    far = max(equal.get("share_longer", 0), equal.get("share_shorter", 0)) > 0.95
    known = f" {interval(equal['interval'], 4)}" if equal["interval"] else ""
    return f"{number(equal['intercept'], 4)}{known}{' †' * far}"


def mark(p: float | None) -> str:
    """The usual stars of a corrected p."""
    if p is None:
        return ""
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def length_correlations(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """Compared value -> correlation with length, of the metrics of one system."""
    described = {key: metrics[key] for key in ("bertscore", "nidf", "repetition") if key in metrics}
    described |= {f"iva.{key}": value for key, value in metrics.get("iva", {}).items()}
    if "emotion_shares" in metrics:
        described["emotion_shares.overlap"] = metrics["emotion_shares"]
    described |= moving_with_length(metrics.get("diff_epitome"))
    described |= {
        f"{RATINGS}{rater}.{dimension}": value
        for rater, of in metrics.get("ratings", {}).get("raters", {}).items()
        for dimension, value in of.items()
    }
    return {key: value["length_correlation"] for key, value in described.items()}


def moving(correlations: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """Names of the values whose |r| with length reaches .1 in some system (system -> value -> r)."""
    return list(
        dict.fromkeys(
            label(key)
            for of in correlations.values()
            for key, r in of.items()
            if r is not None and abs(r) >= _STRONG
        )
    )


def length_section(results: Mapping[str, Any]) -> str:
    """Which values move with the length of the responses."""
    correlations = {
        name: length_correlations(system["metrics"]) for name, system in results["systems"].items()
    }
    values = list(dict.fromkeys(key for of in correlations.values() for key in of))
    if not values:
        return ""
    rows = [[label(key), *(number(of.get(key)) for of in correlations.values())] for key in values]
    return (
        "## What moves with length\n\nCorrelation (Pearson) of each value with the characters of "
        f"the response, per system. With |r| ≥ {_STRONG} in some system: "
        f"{escape(', '.join(moving(correlations)) or 'none')}. Comparisons of systems whose replies "
        "differ in length have to be read at equal length in these values. Of the values of a whole set, distinct-n falls with the amount of text, so "
        "compare its rarefied form; the nodes of the trie grow with it.\n\n"
        + table(["value", *correlations], rows)
    )

"""The report's section on a human survey: every number comes from survey.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empo.reporting.comparisons import at_equal_length, mark
from empo.reporting.markdown import code, escape, interval, number, table
from empo.reporting.published import SURVEY, SURVEY_ASPECTS

_MIXED = (
    "*Paired* compares item means (each the mean of the item's ratings) by exchange, as the paper "
    "does: difference with its 95 % bootstrap interval, p of this test: {test}. It takes the items for "
    "independent, but one rater is behind many of them, so its interval is too narrow, and its p too "
    "small where people rated one system only or like one system more than others do. The *mixed model* "
    "(random intercepts of {groups}; restricted maximum likelihood, z test) knows who rated what: **go by "
    "its p and interval**. A box that is ticked or not goes into it as 1 and 0, a linear probability "
    "model. Holm's "
    "correction is over the {tests} tests of a column{floor}. Marks, after correction: \\*\\*\\* below .001, "
    "\\*\\* below .01, \\* below .05. d is Cohen's: the mixed model's difference over the spread of the "
    "item means of the two systems, with a 95 % interval.\n\n"
)
_PUBLISHED = (
    "\n### Beside Table 7 of the paper\n\nCohen's d of the first system over the second; "
    "rows marked *published* are the paper's, of its own models, raters and 135 exchanges, with one-sided "
    "tests that are not repeated here. It does not say which form of d it prints; ours is the pooled one.\n\n"
)


def survey_section(
    results: Mapping[str, Any], figures: Mapping[str, str] | None = None, of: str = ""
) -> str:
    """The section; `figures` maps a caption to a file beside the report, `of` names the run."""
    found = results["all"]
    parts = [
        f"## Human survey{f' ({escape(of)})' if of else ''}\n\n" + _facts(results),
        *(f"![{escape(text)}]({file})\n" for text, file in (figures or {}).items()),
        _means(results),
        _comparisons(found, results["resamples"]),
        _beside_published(found),
        _agreement(found),
        _length(found),
        _flagged(results),
    ]
    return "\n".join(part for part in parts if part)


def survey_report(results: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """A report on the survey alone."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        survey_section(results, figures).replace("## Human survey", "# Human survey", 1)
        + f"\n### How it was computed\n\n{code(results['command'])}\nSeed {results['seed']}, "
        f"{results['resamples']:,} resamples. Versions: {escape(versions)}\n"
    )


def aspect_name(aspect: str) -> str:
    """An aspect's key as words."""
    return aspect.replace("_", " ")


def best_mean(described: Mapping[str, Any]) -> float | None:
    """A system's mean in the mixed model, of the item means where there is no model."""
    mean = described["mixed"]["mean"]
    return described["mean"] if mean is None else mean


def _facts(results: Mapping[str, Any]) -> str:
    found = results["all"]
    flagged = len(results["flagged"])
    lines = [
        f"- {found['raters']:,} raters, {found['ratings']:,} ratings, {found['exchanges']:,} "
        f"exchanges, {len(found['systems'])} systems; computed {escape(results['created'])}",
        f"- Raters flagged as inattentive: {flagged}; they are in all figures unless it says otherwise",
    ]
    if results["missing"]:
        lines.append(f"- Ratings without a value, left out: {results['missing']:,}")
    if results["replaced"]:
        lines.append(
            f"- Replies rated by links that were replaced, left out: {results['replaced']:,}"
        )
    if results["statements"]:
        lines += [
            f"- {escape(aspect_name(aspect))}: {escape(text)}"
            for aspect, text in results["statements"].items()
        ]
    return "\n".join(lines) + "\n"


def _means(results: Mapping[str, Any]) -> str:
    aspects, systems = results["aspects"], results["all"]["systems"]
    rows = []
    for name, of in systems.items():
        cells = [
            f"{number(best_mean(of[aspect]), 2)} {interval(of[aspect]['mixed']['interval'], 2)}"
            for aspect in aspects
        ]
        n, fewest = ({of[aspect][key] for aspect in aspects} for key in ("n", "fewest"))
        rows.append([name, *cells, _range(n), _range(fewest)])
    headers = ["system", *map(aspect_name, aspects), "exchanges", "fewest ratings"]
    return (
        "### Means\n\nMean of the mixed model below, with a 95 % interval that speaks of other raters and "
        "exchanges too; without an interval of the item means, where there is no model.\n\n"
        + table(headers, rows)
    )


def _range(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def _comparisons(found: Mapping[str, Any], resamples: int) -> str:
    rows = found["comparisons"]
    if not rows:
        return ""
    tests = sum(row["p"] is not None for row in rows)
    text = _MIXED.format(
        test=escape("; ".join(sorted({row["test"] for row in rows}))),
        groups=", ".join(name for name in _groups(found) if name != "residual"),
        tests=tests,
        floor=f", so that a paired p after it is no smaller than {tests / (resamples + 1):.2g}",
    )
    return "### Comparisons\n\n" + text + _pairs(rows)


def _groups(found: Mapping[str, Any]) -> list[str]:
    """The random intercepts of any aspect, in the order of the one with the most, and the residual."""
    of = sorted(found["variances"].values(), key=len, reverse=True)
    names = dict.fromkeys(name for variances in of for name in variances if name != "reasons")
    return [*(name for name in names if name != "residual"), "residual"]


def _pairs(rows: Sequence[Mapping[str, Any]]) -> str:
    headers = "aspect; systems; paired; p (Holm); mixed model; p (Holm); d; n".split("; ")
    return table(headers, [_row(row) for row in rows], left=2)


def _row(row: Mapping[str, Any]) -> list[str]:
    mixed, d = row["mixed"], row["d"]
    return [
        aspect_name(row["metric"]),
        f"{row['a']} − {row['b']}",
        f"{number(row['difference'], 2)} {interval(row['interval'], 2)}",
        _corrected(row["p_holm"]),
        f"{number(mixed['difference'], 2)} {interval(mixed['interval'], 2)}",
        _corrected(mixed["p_holm"]),
        f"{number(d['pooled'], 2)} {interval(d['pooled_interval'], 2)}",
        str(row["n"]),
    ]


def _corrected(p: float | None) -> str:
    small = p is not None and p < 0.0001
    return f"{'< 0.0001' if small else number(p, 4)} {mark(p)}".strip()


def _beside_published(found: Mapping[str, Any]) -> str:
    d = {(row["a"], row["b"], row["metric"]): row["d"]["pooled"] for row in found["comparisons"]}
    d |= {(b, a, aspect): None if v is None else -v for (a, b, aspect), v in d.items()}
    rows = []
    for (a, b), printed in SURVEY.items():
        if all((a, b, aspect) in d for aspect in SURVEY_ASPECTS):
            ours = [number(d[a, b, aspect], 2) for aspect in SURVEY_ASPECTS]
            rows += [[f"{a} over {b}", *ours], [f"{a} over {b}, published", *printed.split("; ")]]
    if not rows:
        return ""
    return _PUBLISHED + table(["systems", *map(aspect_name, SURVEY_ASPECTS)], rows)


def _agreement(found: Mapping[str, Any]) -> str:
    groups = _groups(found)
    rows = []
    for aspect, icc in found["agreement"].items():
        of = found["variances"][aspect]
        rows.append(
            [
                aspect_name(aspect),
                f"{number(icc['single'])} {interval(icc['single_interval'])}",
                f"{number(icc['mean'])} {interval(icc['mean_interval'])}",
                number(icc["per_item"], 2),
                *(number(of.get(name), 2) for name in groups),
            ]
        )
    headers = ["aspect", "ICC(1)", "ICC(k)", "k", *(f"variance of {name}" for name in groups)]
    return (
        "### Agreement\n\nICC(1): how far a single rating tells items (replies) apart; ICC(k): the mean "
        "of the k ratings that an item has. One-way: what raters do is noise. Raters are nested in batches, one "
        "behind many items, which the 95 % intervals (by F) do not know, so they are approximate and too "
        "narrow. The variances are those of the mixed model.\n\n" + table(headers, rows)
    )


def _length(found: Mapping[str, Any]) -> str:
    systems = found["systems"]
    aspects = list(next(iter(systems.values())))
    correlations = [
        [
            aspect_name(aspect),
            *(number(of[aspect]["length_correlation"]) for of in systems.values()),
        ]
        for aspect in aspects
    ]
    if all(cell == "—" for row in correlations for cell in row[1:]):
        return ""
    rows = [
        [
            aspect_name(row["metric"]),
            f"{row['a']} − {row['b']}",
            at_equal_length(row["length_controlled"]),
        ]
        for row in found["comparisons"]
    ]
    return (
        "### What moves with length\n\nCorrelation (Pearson) of the item means with the characters of "
        "the response, per system:\n\n"
        + table(["aspect", *systems], correlations)
        + "\nThe difference of item means that is left between replies equally long (intercept of the "
        "paired differences over the length differences, 95 % interval); † where one system's replies "
        "are nearly always the longer ones, so that it is an extrapolation:\n\n"
        + table(["aspect", "systems", "at equal length"], rows, left=2)
    )


def _flagged(results: Mapping[str, Any]) -> str:
    rules = results["rules"]
    text = (
        "### Inattentive raters\n\nFlagged is who set all sliders of an item to the same place on at "
        f"least {rules['straight_share']:.0%} of the items, or took a median of less than "
        f"{rules['fast_seconds']:g} seconds per item. "
    )
    if not results["flagged"]:
        return text + "Nobody is.\n"
    rows = [
        [
            row["rater"],
            ", ".join(row["reasons"]),
            number(row["straight"], 2),
            number(row["median_seconds"], 1),
            str(row["items"]),
        ]
        for row in results["flagged"]
    ]
    headers = ["rater", "why", "share of equal sliders", "median seconds", "items"]
    listed = table(headers, rows, left=2)
    without = results["without_flagged"]
    if without is None:
        return f"{text}\n\n{listed}\nWithout them nothing is left to compare.\n"
    changed = _changes(results["all"]["comparisons"], without["comparisons"])
    rest = (
        f"\nWithout them ({without['raters']:,} raters, {without['ratings']:,} ratings) "
        + (f"these marks of the mixed model change: {escape('; '.join(changed))}." if changed else
           "no mark of the mixed model changes.")
        + "\n\n"
    )  # fmt: skip
    return f"{text}\n\n{listed}{rest}" + _pairs(without["comparisons"])


def _changes(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> list[str]:
    marks = {(r["a"], r["b"], r["metric"]): mark(r["mixed"]["p_holm"]) for r in after}
    changed = []
    for row in before:
        there = marks.get((row["a"], row["b"], row["metric"]))
        here = mark(row["mixed"]["p_holm"])
        if there is not None and there != here:
            pair = f"{aspect_name(row['metric'])} {row['a']} − {row['b']}"
            changed.append(f"{pair} ({here or 'none'} to {there or 'none'})")
    return changed

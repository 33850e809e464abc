"""The report's section on empathy levels: DIFF-EPITOME beside its controls, and what is behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from empo.rating import MECHANISMS
from empo.reporting.markdown import escape, interval, number, table
from empo.reporting.published import BERTSCORE, EPITOME, with_published

_SHORT = {"emotional_reactions": "ER", "interpretations": "IP", "explorations": "EX"}
_CONTROLS = {
    "always_level_0": "always level 0",
    "drawn_from_reference": "levels drawn from the reference distribution",
}
_AGAINST = {"against_level_0": "always_level_0", "against_drawn": "drawn_from_reference"}
LABELS = {
    "diff_epitome": "DIFF-EPITOME",
    **{f"diff_epitome.{name}": f"DIFF-EPITOME {_SHORT[name]}" for name in MECHANISMS},
    "epitome_levels": "sum of levels",
}
"""Names of the compared values in the report's tables."""

_EXPLAINED = (
    "A rater gave every response and its human reference, each as an answer to the last speaker "
    "turn, a level of 0 (none), 1 (weak) or 2 (strong) in three mechanisms: ER emotional reactions, "
    "IP interpretations, EX explorations. DIFF-EPITOME is the mean squared difference of the two "
    "levels, 0 to 4, and the mean over the mechanisms. Smaller is closer to what the human wrote, "
    "not more empathetic. Mean ± standard deviation over responses, 95 % bootstrap interval of the "
    "mean. The references differ from themselves by 0, so they stand only in the tables of levels, "
    "and no system is compared with them in this value.\n\n"
)
_CONTROLS_EXPLAINED = (
    "\nThe controls are computed on the same references. *Always level 0* is what a system scores "
    "that never says anything empathetic; *levels drawn from the reference distribution* is what "
    "one scores that shows every level as often as the humans do, but at random, whatever it "
    "answers to (an exact expectation: twice the variance of the reference levels). A DIFF-EPITOME "
    "that is not below a control (95 % interval of the paired difference below 0) says little about empathy. On the paper's own data *always level "
    "0* beats its best system, so a small DIFF-EPITOME alone is no sign of empathy either.\n"
)
_PUBLISHED = (
    "\nRows marked *published* are Table 2 of the paper: its models (α 64) rated by its raters "
    "(lower-cased text, 64 tokens a side). Another rater gives other levels, so compare the rows "
    "only where the rater is the same.\n"
)


def bold_warnings(warnings: Iterable[str]) -> str:
    """One bold paragraph per warning of a rater, as every report of its scores repeats them."""
    return "".join(f"**{escape(warning)}**\n\n" for warning in warnings)


def empathy_levels(results: Mapping[str, Any], figure: str | None, *, published: bool) -> str:
    """The section as markdown; `figure` is the file with the level distributions."""
    systems = results["systems"]
    measured = {name: system["metrics"]["diff_epitome"] for name, system in systems.items()}
    parts = ["## Empathy levels (DIFF-EPITOME)\n\n"]
    parts += [
        _EXPLAINED,
        bold_warnings(results.get("warnings", ())),
        _metric(measured, systems, published),
        _CONTROLS_EXPLAINED,
        _against_controls(measured),
        _PUBLISHED if published else "",
        _signed(measured),
        distributions(measured),
    ]
    if figure:
        parts.append(f"\n![Shares of the levels per mechanism and system]({figure})\n")
    parts += [confusions(measured), _sums(measured)]
    return "".join(parts)


def beside_summary(results: Mapping[str, Any]) -> str:
    """Lines of plain text after a table of systems: the controls, and every warning of a rater."""
    human = results["systems"].get("human", {"metrics": {}})["metrics"].get("diff_epitome")
    lines = [
        f"DIFF-EPITOME of the control “{_CONTROLS[name]}”: {number(values['mean'], 4)}"
        for name, values in (human["controls"] if human else {}).items()
    ]
    lines += [f"warning: {warning}" for warning in results.get("warnings", ())]
    return "".join(f"\n{line}" for line in lines)


def moving_with_length(values: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """The described values of one system that have a correlation with length, by compared name."""
    if values is None:
        return {}
    mechanisms = {f"diff_epitome.{name}": values["mechanisms"][name] for name in MECHANISMS}
    return {"diff_epitome": values, **mechanisms, "epitome_levels": values["levels_sum"]}


def _systems(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values for name, values in measured.items() if name != "human"}


def _mean_sd(described: Mapping[str, Any]) -> str:
    return f"{number(described['mean'])} ± {number(described['sd'])}"


def _metric(measured: Mapping[str, Any], systems: Mapping[str, Any], published: bool) -> str:
    """The layout of the paper's Table 2, with the controls below; BERTScore where it was measured."""
    rows = {
        name: [
            _mean_sd(values),
            interval(values["interval"]),
            *(_mean_sd(values["mechanisms"][mechanism]) for mechanism in MECHANISMS),
            str(values["n"]) + (f" ({k} unscored)" if (k := values["unscored"]) else ""),
        ]
        for name, values in _systems(measured).items()
    }
    table_rows = with_published(rows, EPITOME, published)
    for name, values in measured["human"]["controls"].items():
        table_rows.append(
            [
                f"control: {_CONTROLS[name]}",
                number(values["mean"]) if values["sd"] is None else _mean_sd(values),
                interval(values["interval"]),
                *(number(values[mechanism]) for mechanism in MECHANISMS),
                str(values["n"]),
            ]
        )
    headers = ["system", "mean", "interval", *_SHORT.values(), "n"]
    if any("bertscore" in system["metrics"] for system in systems.values()):
        f1 = {
            name: number(system["metrics"]["bertscore"]["f1"])
            for name, system in systems.items()
            if "bertscore" in system["metrics"]
        }
        f1 |= {f"{name}, published": cell for name, cell in BERTSCORE.items()}
        headers.insert(-1, "BERTScore F1")
        for row in table_rows:
            row.insert(-1, f1.get(row[0], "—"))
    return table(headers, table_rows)


def _against_controls(measured: Mapping[str, Any]) -> str:
    """Which systems are not shown to be below the controls on their own references."""
    lines = []
    for key, control in _AGAINST.items():
        not_shown = [
            name
            for name, values in _systems(measured).items()
            if values["n"] and not _below_0(values[key]["interval"])
        ]
        if not_shown:
            lines.append(
                f"Not shown to be below the control “{_CONTROLS[control]}”: "
                f"{escape(', '.join(not_shown))}.\n"
            )
    if not lines and _systems(measured):
        lines.append("Every system is below both controls.\n")
    return "".join(f"\n{line}" for line in lines)


def _below_0(bounds: Sequence[float] | None) -> bool:
    return bounds is not None and bounds[1] < 0


def _signed(measured: Mapping[str, Any]) -> str:
    rows = []
    for name, values in _systems(measured).items():
        signed = [values["mechanisms"][mechanism]["signed"] for mechanism in MECHANISMS]
        rows.append([name, *(f"{number(s['mean'])} {interval(s['interval'])}" for s in signed)])
    if not rows:
        return ""
    return (
        "\nSigned differences, response minus reference (positive: the response has the higher "
        "level), with 95 % intervals.\n\n" + table(["system", *_SHORT.values()], rows)
    )


def distributions(measured: Mapping[str, Any]) -> str:
    """Shares of the levels; `measured` maps a system to its `mechanisms` with `levels`."""
    rows = []
    for name, values in measured.items():
        cells = []
        for mechanism in MECHANISMS:
            counts = values["mechanisms"][mechanism]["levels"]
            whole = max(1, sum(counts))
            cells.append(" / ".join(number(100 * count / whole, 1) for count in counts))
        rows.append([name, *cells])
    return "\nShares of the levels 0 / 1 / 2 in per cent.\n\n" + table(
        ["system", *_SHORT.values()], rows
    )


def confusions(measured: Mapping[str, Any]) -> str:
    """Reference level against level; `measured` maps a system to its `mechanisms`, `confusion`."""
    rows = [
        [
            name,
            str(level),
            *(
                str(count)
                for mechanism in MECHANISMS
                for count in values["mechanisms"][mechanism]["confusion"][level]
            ),
        ]
        for name, values in _systems(measured).items()
        for level in range(3)
    ]
    if not rows:
        return ""
    headers = [f"{short} {level}" for short in _SHORT.values() for level in range(3)]
    return (
        "\nHow often a reference level (row) meets a level of the response (column).\n\n"
        + table(["system", "reference", *headers], rows)
    )


def _sums(measured: Mapping[str, Any]) -> str:
    """Sum of levels, correlation with length, and what was left out or cut."""
    rows = []
    for name, values in measured.items():
        cut = values["truncated"]
        rows.append(
            [
                name,
                _mean_sd(values["levels_sum"]),
                number(values["levels_sum"]["length_correlation"]),
                number(values["length_correlation"]),
                str(values["blank"]),
                str(values["unscored"]),
                *(number(100 * cut[part], 1) for part in ("context", "response", "reference")),
            ]
        )
    return (
        "\nSum of the three levels (0 to 6), its correlation and that of DIFF-EPITOME with the "
        "length of the response (r); blank responses, which count as level 0; responses left out because the rater could not score them or "
        "their reference; per cent of the responses of which the rater cut the context, the "
        "response or the reference.\n\n"
        + table(
            "system;sum of levels;r of the sum;r of DIFF-EPITOME;blank;unscored;context cut;"
            "response cut;reference cut".split(";"),
            rows,
        )
    )

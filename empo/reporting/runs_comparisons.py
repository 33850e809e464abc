"""The combined report's section on differences between systems, value by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.reporting.comparisons import at_equal_length, label, mark
from empo.reporting.markdown import escape, interval, number, table

_EXPLAINED = (
    "On {shared} exchanges; where a value is not known for all of them, n is the number of those on "
    "which both systems have it.\n\n"
    "- *difference*: mean over runs of the first system minus that of the second, with its 95 % "
    "interval.\n"
    "- *t (df)*, *p* and the interval take runs and exchanges as random and crossed (quasi-F, Clark "
    "1973; degrees of freedom of Satterthwaite 1946): they speak of systems that are trained again "
    "and answer other exchanges. The squared standard error is the variance of the paired "
    "differences over exchanges plus that of the run means of either system. A system that is the "
    "same in every run (the references, a model that is not trained again) stands as it is and adds "
    "none. A system with a single run that is not the same in every run is not tested, because one "
    "training cannot say how far trainings differ.\n"
    "- How often such intervals cover the truth was simulated: about 94 % or more with two to four "
    "runs on both sides; against a system that is the same in every run down to 87 % with two runs "
    "and 92 % with three, where trainings differ more than exchanges. Two runs against the "
    "references are thin evidence.\n"
    "- *p (Holm)*: corrected over all {tests} tests of this section. Marks: \\*\\*\\* below .001, "
    "\\*\\* below .01, \\* below .05. A real difference can stay unmarked.\n"
    "- *Welch p (these exchanges)*: Welch's t test of the run means, as papers print it (one-sample "
    "where one system is the same in every run). It takes the exchanges as fixed, so it speaks of "
    "other trainings on these very exchanges and of no others; not corrected, not marked.\n"
    "- *d*: Cohen's d (pooled) over exchanges, mean over the runs that have both systems.\n"
    "- *at equal length*: what is left of the difference between replies equally long: the intercept "
    "of the regression of the run-averaged differences on those of length. Its 95 % interval, too, "
    "takes runs and exchanges as random: the squared standard error is that of the regression plus "
    "the variance of the run intercepts of either system, with Satterthwaite's degrees of freedom, so "
    "it covers the truth as often as the interval of the difference; no interval where that has none. "
    "† marks an extrapolation, because one system's reply is the longer one in more than 95 % of the "
    "exchanges.\n"
    "- *own*: runs whose own paired test by exchange (sign-flip permutation, Holm over the table of "
    "that run) is below .05.\n\n"
    "`human` is not compared in values in which it is compared with itself (DIFF-EPITOME, "
    "BERTScore).\n"
)
_HEADERS = "pair;difference;t (df);p;p (Holm);Welch p (these exchanges);d;at equal length;own"


def runs_comparisons_section(report: Mapping[str, Any]) -> str:
    """Tests of all pairs in all values, value by value; empty where no runs were compared."""
    compared = report["comparisons"]
    if not compared:
        return ""
    tests = sum(row["p"] is not None for row in compared)
    text = "## Comparisons over runs\n\n"
    text += _EXPLAINED.format(shared=f"{report['shared']:,}", tests=tests)
    if not tests:
        text += "\nNo pair could be tested: one system of every pair has a single run, and is not in all runs.\n"
    for metric in dict.fromkeys(row["metric"] for row in compared):
        rows = [_row(row, report["shared"]) for row in compared if row["metric"] == metric]
        text += f"\n### {escape(label(metric))}\n\n"
        text += table(_HEADERS.split(";"), rows)
    return text


def _row(row: Mapping[str, Any], shared: int) -> list[str]:
    own, welch = row["own"], row["welch"]
    return [
        f"{row['a']} − {row['b']}" + (f" (n = {row['n']})" if row["n"] != shared else ""),
        f"{number(row['difference'], 4)}"
        + (f" {interval(row['interval'], 4)}" if row["interval"] else ""),
        "—" if row["t"] is None else f"{number(row['t'], 2)} ({number(row['df'], 1)})",
        number(row["p"], 4),
        f"{number(row['p_holm'], 4)} {mark(row['p_holm'])}".strip(),
        number(welch and welch["p"], 4),
        number(row["d"]["pooled"], 2),
        at_equal_length(row["length_controlled"]),
        f"{own['below']} of {own['of']}" if own["of"] else "—",
    ]

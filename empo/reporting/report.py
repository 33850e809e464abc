"""report.md with its figures from the content of results.json: every number comes from there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from empo.records import write_text
from empo.reporting import published as published_rows
from empo.reporting.epitome import LABELS as EPITOME_LABELS
from empo.reporting.epitome import beside_summary, bold_warnings, empathy_levels, moving_with_length
from empo.reporting.figures import epitome_figure, iva_figure, nidf_figure, training_figure
from empo.reporting.markdown import aligned, escape, interval, number, table
from empo.reporting.published import with_published

_LABELS = {
    "nidf": "NIDF",
    "iva.intensity": "|ΔI|",
    "iva.valence": "|ΔV|",
    "iva.arousal": "|ΔA|",
    "iva.dominance": "|ΔD|",
    "length.characters": "characters",
    "length.tokens": "tokens",
    **EPITOME_LABELS,
}
_STRONG = 0.1  # |r| with length from which a metric is said to move with it


def write_report(
    results: Mapping[str, Any],
    folder: str | Path,
    *,
    published: bool = False,
    training: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    preface: str = "",
) -> Path:
    """Write report.md and its figures into `folder`; return the report's path.

    `published` puts the paper's rows beside ours (for its 2,540 exchanges). `training` maps the
    name of a run to the rows of its log.jsonl. `preface` is markdown put first.
    """
    folder = Path(folder)
    systems = results["systems"]
    measured = _metrics(systems)
    figures: dict[str, str] = {}
    if "diff_epitome" in measured:
        figures["epitome"] = "epitome.svg"
        epitome_figure(systems, folder / figures["epitome"])
    if "nidf" in measured:
        figures["nidf"] = "nidf.svg"
        nidf_figure(systems, folder / figures["nidf"])
    if "iva" in measured:
        figures["iva"] = "iva.svg"
        iva_figure(systems, folder / figures["iva"])
    for name, log in (training or {}).items():
        if any("loss" in row for row in log):
            figures[f"training {name}"] = f"training-{name}.svg"
            training_figure(log, folder / f"training-{name}.svg")
    path = folder / "report.md"
    write_text(path, preface + render(results, figures, published=published))
    return path


def render(
    results: Mapping[str, Any], figures: Mapping[str, str] | None = None, *, published: bool = False
) -> str:
    """The report as markdown; `figures` maps `epitome`, `nidf`, ... to files beside it."""
    figures = figures or {}
    systems = results["systems"]
    measured = _metrics(systems)
    sections = [_facts(results)]
    if "diff_epitome" in measured:
        sections.append(empathy_levels(results, figures.get("epitome"), published=published))
    if "trie" in measured:
        sections.append(_diversity(systems, published))
    if {"nidf", "iva"} & measured:
        sections.append(_words(systems, figures, published))
    if "length" in measured:
        sections.append(_length(systems, published))
    if published and {"trie", "nidf", "iva"} & measured:
        sections.append(published_rows.REMARK)
    if any(row["p"] is not None for row in results["comparisons"]):
        sections.append(_comparisons(results["comparisons"]))
    sections.append(_with_length(results))
    training = {name: file for name, file in figures.items() if name.startswith("training ")}
    if training:
        images = [
            f"![Curves of the {escape(name)} run]({file})\n" for name, file in training.items()
        ]
        sections.append("## Training\n\n" + "\n".join(images))
    if results["not_run"]:
        rows = [(entry["metric"], entry["reason"]) for entry in results["not_run"]]
        sections.append("## Not run\n\n" + table(["metric", "reason"], rows, left=2))
    sections.append(_samples(results))
    return "\n".join(section for section in sections if section)


def summary(results: Mapping[str, Any]) -> str:
    """The systems in one table of plain text, for the terminal; controls and warnings below it."""
    rows = [
        "system;n;DIFF-EPITOME;templates;span/total nodes;from root;compression;starts;"
        "NIDF;|ΔI|;|ΔV|;|ΔA|;|ΔD|;characters".split(";")
    ]
    for name, system in results["systems"].items():
        metrics = system["metrics"]
        trie, nidf, iva = (metrics.get(key, {}) for key in ("trie", "nidf", "iva"))
        rows.append(
            [
                name,
                str(system["n"]),
                number(metrics.get("diff_epitome", {}).get("mean"), 4),
                number(trie.get("templates"), 0),
                f"{number(trie.get('span_nodes'), 0)}/{number(trie.get('total_nodes'), 0)}",
                number(trie.get("children_from_root"), 0),
                number(trie.get("compression_ratio"), 5),
                number(trie.get("unique_start_words"), 0),
                f"{number(nidf.get('mean'), 4)} ± {number(nidf.get('sd'), 4)}",
                *(
                    number(iva.get(dimension, {}).get("mean_absolute"), 4)
                    for dimension in ("intensity", "valence", "arousal", "dominance")
                ),
                number(metrics.get("length", {}).get("mean_characters"), 1),
            ]
        )
    return aligned(rows) + beside_summary(results)


def _metrics(systems: Mapping[str, Any]) -> set[str]:
    """Names of the metrics that every system has."""
    return set.intersection(*(set(system["metrics"]) for system in systems.values()))


def _facts(results: Mapping[str, Any]) -> str:
    systems = results["systems"]
    n = max(system["n"] for system in systems.values())
    lines = [
        f"- Systems: {escape(', '.join(systems))}",
        f"- Exchanges: {n:,}, the same for every system",
        f"- Seed: {results['seed']}; measured {escape(results['created'])}",
    ]
    if left_out := {name: count for name, count in results["left_out"].items() if count}:
        counts = ", ".join(f"{name} {count:,}" for name, count in left_out.items())
        lines.append(f"- Left out, because not every system has a response: {escape(counts)}")
    if "command" in results:
        lines.append(f"- Command: {escape(results['command'])}")
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines.append(f"- Versions: {escape(versions)}")
    lines += [f"- {name}: {escape(text)}" for name, text in results["signatures"].items()]
    warnings = bold_warnings(results.get("warnings", ()))
    return f"# Responses measured\n\n{warnings}" + "\n".join(lines) + "\n"


def _diversity(systems: Mapping[str, Any], published: bool) -> str:
    rows = {}
    for name, system in systems.items():
        trie = system["metrics"]["trie"]
        rows[name] = [
            f"{trie['templates']} ({100 * trie['template_share']:.1f} %)",
            f"{trie['span_nodes']} / {trie['total_nodes']}",
            str(trie["children_from_root"]),
            number(trie["compression_ratio"], 4),
            str(trie["unique_start_words"]),
        ]
    headers = "system; templates; span nodes / total nodes; children from root; "
    headers += "compression ratio; start words"
    return (
        "## Diversity\n\nRepeated n-grams are folded into symbols; a template is what is left of a "
        "response. More templates, more nodes and a higher compression ratio: less repetition.\n\n"
        + table(headers.split("; "), with_published(rows, published_rows.DIVERSITY, published))
    )


def _words(systems: Mapping[str, Any], figures: Mapping[str, str], published: bool) -> str:
    measured = _metrics(systems)
    rows = {}
    for name, system in systems.items():
        metrics = system["metrics"]
        cells = ["—"] * 5
        if "nidf" in measured:
            nidf = metrics["nidf"]
            cells[0] = f"{number(nidf['mean'], 4)} ± {number(nidf['sd'], 4)}"
        if "iva" in measured:
            cells[1:] = [number(value["mean_absolute"], 4) for value in metrics["iva"].values()]
        rows[name] = cells
    text = (
        "## Specificity and word choice\n\nNIDF: 0 for frequent words, 1 for rare ones; mean ± "
        "standard deviation over responses. ΔI, ΔV, ΔA, ΔD: prompt minus response in emotional "
        "intensity, valence, arousal and dominance of the strongest word; smaller absolute values "
        "are closer to the speaker.\n\n"
        + table(
            ["system", "NIDF", "|ΔI|", "|ΔV|", "|ΔA|", "|ΔD|"],
            with_published(rows, published_rows.WORDS, published),
        )
    )
    if "iva" in measured:
        signed = [
            [
                name,
                *(number(value["mean_signed"], 4) for value in system["metrics"]["iva"].values()),
                number(system["metrics"]["iva"]["intensity"]["share_without_words"]),
                number(system["metrics"]["iva"]["valence"]["share_without_words"]),
            ]
            for name, system in systems.items()
        ]
        text += (
            "\nSigned means (positive: the response has less than the prompt), and the share of "
            "responses without any word of the intensity or of the VAD lexicon, which count as "
            "0.\n\n"
            + table(
                ["system", "ΔI", "ΔV", "ΔA", "ΔD", "without intensity word", "without VAD word"],
                signed,
            )
        )
    for name, alt in (
        ("nidf", "Distribution of NIDF over responses, per system"),
        ("iva", "Distributions of the differences in intensity, valence and arousal, per system"),
    ):
        if name in figures:
            text += f"\n![{alt}]({figures[name]})\n"
    return text


def _length(systems: Mapping[str, Any], published: bool) -> str:
    rows = {}
    for name, system in systems.items():
        length = system["metrics"]["length"]
        rows[name] = [
            *(
                f"{number(length[f'mean_{unit}'], 1)} ± {number(length[f'sd_{unit}'], 1)}"
                for unit in ("characters", "tokens")
            ),
            str(length["blank"]),
        ]
    return (
        "## Length\n\nMean ± standard deviation over responses; blank ones have no token.\n\n"
        + table(
            ["system", "characters", "tokens", "blank"],
            with_published(rows, published_rows.CHARACTERS, published),
        )
    )


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    tested = [row for row in comparisons if row["p"] is not None]
    rows = [
        [
            f"{row['a']} − {row['b']}",
            _LABELS.get(row["metric"], row["metric"]),
            number(row["difference"], 4),
            interval(row["interval"], 4),
            number(row["p"], 4),
            f"{number(row['p_holm'], 4)} {_mark(row['p_holm'])}".strip(),
            str(row["n"]),
        ]
        for row in tested
    ]
    tests = "; ".join(sorted({row["test"] for row in tested}))
    text = (
        "## Comparisons\n\nPaired by exchange: mean difference of the first system minus the "
        f"second, its 95 % bootstrap interval, and p of this test: {escape(tests)}. Holm's "
        f"correction is over the {len(tested)} tests of this table, so it can multiply the "
        f"smallest p by {len(tested)}. Marks, after correction: \\*\\*\\* below .001, \\*\\* below "
        ".01, \\* below .05. A mark says that a difference is unlikely to be chance, not that it "
        "is large or better.\n\n"
        + table(["pair", "value", "difference", "interval", "p", "p (Holm)", "n"], rows, left=2)
    )
    if len(tested) < len(comparisons):
        text += (
            "\nDiversity belongs to the whole set of responses: there is no value per response, "
            "hence no test. The differences are in results.json.\n"
        )
    return text


def _mark(p: float) -> str:
    return "***" if p < 0.001 else "**" if p < 0.01 else "*" if p < 0.05 else ""


def _with_length(results: Mapping[str, Any]) -> str:
    """Correlations with length, and every comparison at equal length."""
    systems = results["systems"]
    described: dict[str, list[float | None]] = {}
    for system in systems.values():
        metrics = system["metrics"]
        values = {"nidf": metrics["nidf"]} if "nidf" in metrics else {}
        values |= {f"iva.{key}": value for key, value in metrics.get("iva", {}).items()}
        values |= moving_with_length(metrics.get("diff_epitome"))
        for key, value in values.items():
            described.setdefault(_LABELS[key], []).append(value["length_correlation"])
    if not described:
        return ""
    moving = [
        label
        for label, correlations in described.items()
        if any(r is not None and abs(r) >= _STRONG for r in correlations)
    ]
    rows = [
        [label, *(number(r) for r in correlations)] for label, correlations in described.items()
    ]
    text = (
        "## What moves with length\n\nCorrelation (Pearson) of each value with the characters of "
        f"the response, per system. With |r| ≥ {_STRONG} in some system: "
        f"{escape(', '.join(moving) or 'none')}.\n\n" + table(["value", *systems], rows)
    )
    controlled = [row for row in results["comparisons"] if row["length_controlled"]]
    if controlled:
        rows = []
        for row in controlled:
            equal = row["length_controlled"]
            low, high = equal["interval"]
            rows.append(
                [
                    f"{row['a']} − {row['b']}",
                    _LABELS.get(row["metric"], row["metric"]),
                    number(row["difference"], 4),
                    number(equal["intercept"], 4),
                    interval(equal["interval"], 4),
                    "yes" if low > 0 or high < 0 else "no",
                ]
            )
        text += (
            "\nAt equal length: the paired difference is regressed on the length difference; the "
            "intercept, with its 95 % interval, is the difference that is left between replies "
            "equally long.\n\n"
            + table(
                ["pair", "value", "difference", "at equal length", "interval", "0 is outside"],
                rows,
                left=2,
            )
        )
    return text


def _samples(results: Mapping[str, Any]) -> str:
    samples = results["samples"]
    text = (
        f"## Side by side\n\n{len(samples)} exchanges drawn at random with seed "
        f"{results['seed']}, not chosen; of the context only the last speaker turn is shown.\n"
    )
    for sample in samples:
        rows = [["speaker", sample["prompt"]], *sample["responses"].items()]
        text += f"\n### {escape(sample['id'])} ({escape(sample['emotion'])})\n\n"
        text += table(["who", "text"], rows, left=2)
    return text

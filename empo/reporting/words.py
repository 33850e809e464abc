"""The report's section on words: specificity, word choice, emotions, length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.metrics.emotion_shares import EMOTIONS
from empo.metrics.iva import DIMENSIONS
from empo.reporting.markdown import interval, number, table
from empo.reporting.published import CHARACTERS, WORDS, with_published


def words_section(systems: Mapping[str, Any], figures: Mapping[str, str], published: bool) -> str:
    """NIDF, word choice and emotion shares; `figures` maps `nidf` and `iva` to files."""
    measured = set.intersection(*(set(system["metrics"]) for system in systems.values()))
    if not {"nidf", "iva", "emotion_shares"} & measured:
        return ""
    text = "## Specificity and word choice\n"
    if {"nidf", "iva"} & measured:
        text += "\n" + _lexicon_values(systems, measured, published)
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
    if "emotion_shares" in measured:
        text += _emotions({n: system["metrics"]["emotion_shares"] for n, system in systems.items()})
    return text


def _lexicon_values(systems: Mapping[str, Any], measured: set[str], published: bool) -> str:
    """NIDF and word choice in the layout of the paper's Table 5."""
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
    headers = ["system", "NIDF", "|ΔI|", "|ΔV|", "|ΔA|", "|ΔD|"]
    bounds = ["system", "n", "unseen", *headers[1:]]
    values, intervals = with_published(rows, WORDS, published), _intervals(systems)
    if "iva" not in measured and not published:  # no columns without a value
        headers, values = headers[:2], [row[:2] for row in values]
        bounds, intervals = bounds[:4], [row[:4] for row in intervals]
    return (
        "NIDF: 0 for frequent words, 1 for rare ones; mean ± standard deviation over responses. ΔI, "
        "ΔV, ΔA, ΔD: prompt minus response in emotional intensity, valence, arousal and dominance "
        "of the strongest word; smaller absolute values are closer to the speaker.\n\n"
        + table(headers, values)
        + "\n95 % bootstrap intervals of these means; n are the responses with a NIDF, which a blank "
        "one has not; *unseen*: share of their different words that the table of NIDF lacks and that "
        "count as rare, invented ones too.\n\n" + table(bounds, intervals)
    )


def _intervals(systems: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for name, system in systems.items():
        nidf, iva = (system["metrics"].get(metric, {}) for metric in ("nidf", "iva"))
        bounds = [interval(iva.get(dimension, {}).get("interval")) for dimension in DIMENSIONS]
        counts = [number(nidf.get("n"), 0), number(nidf.get("unseen"))]
        rows.append([name, *counts, interval(nidf.get("interval")), *bounds])
    return rows


def _emotions(systems: Mapping[str, Any]) -> str:
    prompts = next(iter(systems.values()))
    rows = [["speaker's turns", *_shares(prompts["prompt"])]]
    rows += [[name, *_shares(of["response"])] for name, of in systems.items()]
    more = [
        [
            name,
            f"{number(of['mean'])} ± {number(of['sd'])}",
            _positive(of["response_polarity"]),
            number(of["share_without_words"]),
            str(of["n"]),
        ]
        for name, of in systems.items()
    ]
    positive = _positive(prompts["prompt_polarity"])
    without = number(prompts["share_prompts_without_words"])
    return (
        "\n### Emotion words\n\nShares of the eight emotions among the words that NRC EmoLex "
        "associates with one.\n\n"
        + table(["texts of", *EMOTIONS], rows)
        + "\nOverlap of each response's distribution with its prompt's (1: the same emotions in "
        "the same shares; mean ± standard deviation over the n exchanges where both have such a "
        "word), share of positive among positive and negative words, and share of responses "
        "without any emotion word.\n\n"
        + table(
            ["system", "overlap", "positive", "without words", "n"],
            [["speaker's turns", "—", positive, without, "—"], *more],
        )
    )


def _shares(of: Mapping[str, float] | None) -> list[str]:
    return [number(of and of[emotion]) for emotion in EMOTIONS]


def _positive(of: Mapping[str, float] | None) -> str:
    return number(of and of["positive"])


def length_table(systems: Mapping[str, Any], published: bool) -> str:
    """Section with the mean length of the responses; `systems` of results.json."""
    rows = {}
    for name, system in systems.items():
        length = system["metrics"]["length"]
        rows[name] = [
            *(
                f"{number(length[f'mean_{unit}'], 1)} ± {number(length[f'sd_{unit}'], 1)}"
                for unit in ("characters", "tokens")
            ),
            str(length["blank"]),
            number((of := system["metrics"].get("repetition", {})).get("mean")),
            number(of.get("unfinished")),
        ]
    return (
        "## Length and form\n\nMean ± standard deviation over responses; blank ones have no token. "
        "Shares of responses that repeat a 4-gram, and of those that did not end by themselves.\n\n"
        + table(
            ["system", "characters", "tokens", "blank", "repeats a 4-gram", "unfinished"],
            with_published(rows, CHARACTERS, published),
        )
    )

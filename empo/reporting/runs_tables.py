"""Tables of the combined report in the layout of the paper's, values as mean ± spread over runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from empo.metrics.distinct_n import ORDERS
from empo.metrics.emotion_shares import EMOTIONS
from empo.metrics.iva import DIMENSIONS
from empo.metrics.shared_exchanges import HUMAN
from empo.rating import MECHANISMS
from empo.reporting import published
from empo.reporting.epitome import confusions, distributions
from empo.reporting.markdown import escape, number, table
from empo.reporting.published import with_published
from empo.reporting.run_counts import with_counts

_LEVELS = ("mean", "emotional_reactions", "explorations", "interpretations")
_CONTROLS = {
    "always_level_0": "control: always level 0",
    "drawn_from_reference": "control: levels drawn from the reference distribution",
}
_EMPATHY = (
    "DIFF-EPITOME is the mean squared difference between the level of a response and that of its "
    "human reference (0 to 4), mean of ER emotional reactions, EX explorations, IP interpretations; "
    "smaller is closer to what the human wrote, not more empathetic. BERTScore F1: likeness to the "
    "reference, higher is closer.\n\n"
    "The two controls are scored on the same references. *Always level 0* is a system that never "
    "says anything empathetic; *levels drawn from the reference distribution* shows every level as "
    "often as the humans do, but at random. A DIFF-EPITOME that is not below a control says little "
    "about empathy.\n\n"
)

Values = Mapping[str, Mapping[str, Any]]
"""Of one system: metric.value -> mean, sd, of, runs."""


def mean_sd(values: Values, key: str, digits: int = 3, factor: float = 1) -> str:
    """`mean ± standard deviation over runs`, the mean alone where there is one run."""
    value = values.get(key)
    if value is None or value["mean"] is None:
        return "—"
    whole = value["mean"] == round(value["mean"]) and digits == 1 and value["of"] == 1
    text = number(factor * value["mean"], 0 if whole else digits)
    return text if value["sd"] is None else f"{text} ± {number(factor * value['sd'], digits)}"


def empathy_table(report: Mapping[str, Any]) -> str:
    """Table 2: DIFF-EPITOME with its mechanisms and controls, BERTScore F1."""
    keys = [f"diff_epitome.{key}" for key in _LEVELS] + ["bertscore.f1"]
    rows = _rows(report, keys, lambda values: [mean_sd(values, key) for key in keys])
    rows.pop(HUMAN, None)  # equals itself
    controls = _controls(report)
    if not rows and not controls:
        return ""
    if not any("diff_epitome.mean" in system["values"] for system in report["systems"].values()):
        return _closeness(report)
    table_rows = with_published(rows, _empathy_published(), report["published"])
    table_rows += [[name, *cells] for name, cells in controls.items()]
    headers = ["system", "DIFF-EPITOME", "ER", "EX", "IP", "BERTScore F1", "runs"]
    text = "## Empathy levels and BERTScore\n\n" + _EMPATHY + table(headers, table_rows)
    text += _not_below(report)
    if report["published"]:
        text += (
            "\nRows marked *published* are Table 2 of the paper (α 64), rated by its raters; "
            "compare them only where the rater is the same.\n"
        )
    return text + _signed(report) + _level_tables(report["systems"])


def _closeness(report: Mapping[str, Any]) -> str:
    """BERTScore alone, where no rater gave levels."""
    keys = [f"bertscore.{key}" for key in ("f1", "precision", "recall")]
    rows = _rows(report, keys, lambda values: [mean_sd(values, key) for key in keys])
    rows.pop(HUMAN, None)
    theirs = published.BERTSCORE
    return (
        "## Closeness to the reference (BERTScore)\n\nLikeness to the reference in an encoder's "
        "space, higher is closer; values of different encoders cannot be compared.\n\n"
        + table(
            ["system", "F1", "precision", "recall", "runs"],
            with_published(rows, theirs, report["published"]),
        )
    )


def _signed(report: Mapping[str, Any]) -> str:
    """Signed differences of the levels, in the columns of Table 2."""
    keys = [f"diff_epitome.mechanisms.{name}.signed.mean" for name in _LEVELS[1:]]
    rows = _rows(report, keys, lambda values: [mean_sd(values, key) for key in keys])
    rows.pop(HUMAN, None)  # equals itself
    if not rows:
        return ""
    return (
        "\nSigned differences, response minus reference (positive: the response has the higher "
        "level).\n\n" + table(["system", "ER", "EX", "IP", "runs"], _listed(rows))
    )


def _level_tables(systems: Mapping[str, Any]) -> str:
    """Level distributions and confusions with the reference, counted over all runs together."""
    levels, confusion = (
        [("diff_epitome", "mechanisms", name, key) for name in MECHANISMS]
        for key in ("levels", "confusion")
    )
    measured = {
        name: of["metrics"]["diff_epitome"]
        for name, of in with_counts(systems, *levels, *confusion).items()
    }
    if not measured:
        return ""
    return (
        "\nThe next two tables count the responses of all runs of a system together.\n"
        + distributions(measured)
        + confusions(measured)
    )


def _empathy_published() -> dict[str, str]:
    """The paper's cells in the order of this table (those of `published.EPITOME` have IP first)."""
    rows = {}
    for name, cells in published.EPITOME.items():
        mean, _, er, ip, ex, _ = cells.split("; ")
        rows[name] = "; ".join([mean, er, ex, ip, published.BERTSCORE.get(name, "—")])
    return rows


def _controls(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Rows of the controls: the same references everywhere, so of one system's first run."""
    for system in reversed(report["systems"].values()):
        values = system["values"]
        if "diff_epitome.controls.always_level_0.mean" in values:
            break
    else:
        return {}
    return {
        label: [mean_sd(values, f"diff_epitome.controls.{key}.{level}") for level in _LEVELS]
        + ["—", str(values[f"diff_epitome.controls.{key}.mean"]["of"])]
        for key, label in _CONTROLS.items()
    }


def _not_below(report: Mapping[str, Any]) -> str:
    """Systems whose mean over runs is not below a control."""
    text = ""
    for key, label in (("against_level_0", "always level 0"), ("against_drawn", "levels drawn")):
        of = f"diff_epitome.{key}.difference"
        names = [
            name
            for name, system in report["systems"].items()
            if name != HUMAN
            and (mean := system["values"].get(of, {}).get("mean")) is not None
            and mean >= 0
        ]
        if names:
            text += f"\nMean not below the control “{label}”: {escape(', '.join(names))}.\n"
    return text


def diversity_tables(report: Mapping[str, Any]) -> str:
    """Table 4 (the response trie), then distinct-n and self-BLEU."""
    trie = [f"trie.{key}" for key in ("span_nodes", "total_nodes", "children_from_root")]

    def cells(values: Values) -> list[str]:
        share = mean_sd(values, "trie.template_share", 1, 100)
        return [
            mean_sd(values, "trie.templates", 1),
            share,
            *(mean_sd(values, key, 1) for key in trie),
            mean_sd(values, "trie.compression_ratio", 4),
            mean_sd(values, "trie.unique_start_words", 1),
        ]

    rows = _rows(report, ["trie.templates"], cells)
    text = ""
    if rows:
        headers = "system; templates; templates in %; span nodes; total nodes; children from root; "
        headers += "compression; start words; runs"
        text += (
            "\nRepeated n-grams are folded into symbols; a template is what is left of a response. "
            "More templates, more nodes and a higher compression ratio: less repetition.\n\n"
            + table(
                headers.split("; "),
                with_published(rows, _trie_published(), report["published"]),
            )
        )
        if report["published"]:
            text += "\n" + published.REMARK
    keys = [f"distinct_n.{kind}_{n}" for kind in ("distinct", "rarefied") for n in ORDERS]
    keys.append("self_bleu.mean")
    rows = _rows(report, keys, lambda values: [mean_sd(values, key) for key in keys])
    if rows:
        headers = [key.split(".")[1].replace("_", "-") for key in keys[:-1]]
        text += (
            "\nDistinct-n: share of different n-grams among all. It falls with the amount of text; "
            "the rarefied form, of random draws of equal size, does not. Self-BLEU: how much of a "
            "reply other replies have too, on a seeded sample; lower is more diverse.\n\n"
            + table(["system", *headers, "self-BLEU", "runs"], _listed(rows))
        )
    return f"## Diversity\n{text}" if text else ""


def _trie_published() -> dict[str, str]:
    rows = {}
    for name, cells in published.DIVERSITY.items():
        templates, nodes, *others = cells.split("; ")
        count, share = templates.removesuffix(" %)").split(" (")
        rows[name] = "; ".join([count, share, *nodes.split(" / "), *others])
    return rows


def word_tables(report: Mapping[str, Any]) -> str:
    """The section on words: Table 5, then the emotions that words stand for."""
    found = [text for text in (_word_choice(report), _emotions(report)) if text]
    return "## Specificity and word choice\n\n" + "\n".join(found) if found else ""


def _word_choice(report: Mapping[str, Any]) -> str:
    """NIDF and word choice, then the signed means of word choice."""
    absolute = [f"iva.{dimension}.mean_absolute" for dimension in DIMENSIONS]
    keys = ["nidf.mean", "nidf.sd", *absolute]
    rows = _rows(report, keys, lambda values: [mean_sd(values, key, 4) for key in keys])
    if not rows:
        return ""
    theirs = {}
    for name, cells in published.WORDS.items():
        nidf, *others = cells.split("; ")
        theirs[name] = "; ".join([*nidf.split(" ± "), *others])
    text = (
        "NIDF: 0 for frequent words, 1 for rare ones; beside it "
        "its standard deviation over responses. ΔI, ΔV, ΔA, ΔD: prompt minus response in emotional "
        "intensity, valence, arousal and dominance of the strongest word; smaller absolute values "
        "are closer to the speaker.\n\n"
    )
    headers = ["system", "NIDF", "SD of responses", "|ΔI|", "|ΔV|", "|ΔA|", "|ΔD|", "runs"]
    text += table(headers, with_published(rows, theirs, report["published"]))
    signed = [f"iva.{dimension}.mean_signed" for dimension in DIMENSIONS]
    signed += [f"iva.{dimension}.share_without_words" for dimension in ("intensity", "valence")]
    rows = _rows(report, signed, lambda values: [mean_sd(values, key, 4) for key in signed])
    if rows:
        headers = "system; ΔI; ΔV; ΔA; ΔD; without intensity word; without VAD word; runs"
        text += (
            "\nSigned means (positive: the response has less than the prompt), and the share of "
            "responses without any word of the lexicon, which count as 0.\n\n"
            + table(headers.split("; "), _listed(rows))
        )
    return text


def _emotions(report: Mapping[str, Any]) -> str:
    """Shares of the emotions in the words of prompts and responses (NRC EmoLex)."""
    keys = [f"emotion_shares.response.{emotion}" for emotion in EMOTIONS]
    shares = _rows(report, keys, lambda values: [mean_sd(values, key) for key in keys])
    if not shares:
        return ""
    of_prompts = f"emotion_shares.prompt.{EMOTIONS[0]}"
    values = next(
        (s["values"] for s in report["systems"].values() if of_prompts in s["values"]), {}
    )
    prompts = [mean_sd(values, f"emotion_shares.prompt.{emotion}") for emotion in EMOTIONS]
    more = ["mean", "response_polarity.positive", "share_without_words"]
    rows = _rows(
        report,
        ["emotion_shares.mean"],
        lambda values: [mean_sd(values, f"emotion_shares.{key}") for key in more],
    )
    return (
        "### Emotion words\n\nShares of the eight emotions among the words that NRC EmoLex "
        "associates with one.\n\n"
        + table(
            ["texts of", *EMOTIONS],
            [["speaker's turns", *prompts], *(row[:-1] for row in _listed(shares))],
        )
        + "\nOverlap of a response's distribution with its prompt's (1: the same), share of "
        "positive among positive and negative words, share of responses without emotion word.\n\n"
        + table(["system", "overlap", "positive", "without words", "runs"], _listed(rows))
    )


def length_table(report: Mapping[str, Any]) -> str:
    """Mean length, its spread over responses, blank responses."""
    keys = [f"length.{what}_{unit}" for unit in ("characters", "tokens") for what in ("mean", "sd")]
    keys.append("length.blank")
    shares = ("repetition.mean", "repetition.unfinished")
    rows = _rows(
        report,
        [*keys, *shares],
        lambda values: [
            *(mean_sd(values, key, 1) for key in keys),
            *(mean_sd(values, key) for key in shares),
        ],
    )
    if not rows:
        return ""
    headers = "system; characters; SD of responses; tokens; SD of responses; blank; "
    headers += "repeats a 4-gram; unfinished; runs"
    return (
        "## Length and form\n\nMean per response; SD of responses is the standard deviation over the "
        "responses of a run. Blank ones have no token. Shares of responses that repeat a 4-gram, and "
        "of those that did not end by themselves.\n\n"
        + table(
            headers.split("; "),
            with_published(rows, published.CHARACTERS, report["published"]),
        )
    )


def _rows(
    report: Mapping[str, Any], keys: Sequence[str], cells: Callable[[Values], list[str]]
) -> dict[str, list[str]]:
    """Cells of every system that has any of the values, with the number of its runs last."""
    return {
        name: [*cells(system["values"]), str(len(system["runs"]))]
        for name, system in report["systems"].items()
        if any(system["values"].get(key, {}).get("of") for key in keys)
    }


def _listed(rows: Mapping[str, list[str]]) -> list[list[str]]:
    return [[name, *cells] for name, cells in rows.items()]

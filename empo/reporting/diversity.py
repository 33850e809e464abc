"""The report's section on diversity: response trie, distinct n-grams, self-BLEU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.reporting.markdown import interval, number, table
from empo.reporting.published import DIVERSITY, with_published


def diversity_section(systems: Mapping[str, Any], published: bool) -> str:
    """Tables of everything that belongs to a whole set of responses; `systems` of results.json."""
    measured = set.intersection(*(set(system["metrics"]) for system in systems.values()))
    metrics = {name: system["metrics"] for name, system in systems.items()}
    text = "## Diversity\n"
    if "trie" in measured:
        text += "\n" + _trie({name: of["trie"] for name, of in metrics.items()}, published)
    if "distinct_n" in measured:
        text += "\n" + _distinct({name: of["distinct_n"] for name, of in metrics.items()})
    if "self_bleu" in measured:
        text += "\n" + _self_bleu({name: of["self_bleu"] for name, of in metrics.items()})
    return text if measured & {"trie", "distinct_n", "self_bleu"} else ""


def _trie(systems: Mapping[str, Any], published: bool) -> str:
    rows = {
        name: [
            f"{trie['templates']} ({100 * trie['template_share']:.1f} %)",
            f"{trie['span_nodes']} / {trie['total_nodes']}",
            str(trie["children_from_root"]),
            number(trie["compression_ratio"], 4),
            str(trie["unique_start_words"]),
        ]
        for name, trie in systems.items()
    }
    headers = "system; templates; span nodes / total nodes; children from root; "
    headers += "compression ratio; start words"
    return (
        "Repeated n-grams are folded into symbols; a template is what is left of a response. More "
        "templates and more nodes: more variety. The compression ratio (nodes left over nodes "
        "before; higher: less was folded) has to be read beside them: of blank replies it is 1, and "
        "a system that always says the same has little to fold.\n\n"
        + table(headers.split("; "), with_published(rows, DIVERSITY, published))
    )


def _distinct(systems: Mapping[str, Any]) -> str:
    keys = [f"{kind}_{n}" for kind in ("distinct", "rarefied") for n in (1, 2, 3)]
    rows = [[name, *(number(of[key]) for key in keys)] for name, of in systems.items()]
    return (
        "Distinct-n: share of different n-grams among all. It falls with the amount of text; the "
        "rarefied form, what a random draw of 2,000 n-grams would have, does not.\n\n"
        + table(["system", *(key.replace("_", "-") for key in keys)], rows)
    )


def _self_bleu(systems: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            f"{number(of['mean'])} ± {number(of['sd'])}",
            interval(of["interval"]),
            str(of["replies"]),
            str(of["references"]),
            str(of["blank"]),
        ]
        for name, of in systems.items()
    ]
    return (
        "Self-BLEU: how much of a reply other replies have too, on a seeded sample; lower is more "
        "diverse. It rises with the number of references, so compare only rows where that is the "
        "same; blank replies are left out. Mean ± standard deviation over the sampled replies; the "
        "interval takes them as independent, though they share references.\n\n"
        + table(["system", "self-BLEU", "interval", "replies", "references each", "blank"], rows)
    )

"""The systems in one table of plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.reporting.epitome import beside_summary
from empo.reporting.markdown import aligned, number


def summary(results: Mapping[str, Any]) -> str:
    """The systems in one table of plain text, for the terminal; controls and warnings below it."""
    rows = [
        "system;n;DIFF-EPITOME;BERTScore;templates;span/total nodes;from root;compression;starts;"
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
                number(metrics.get("bertscore", {}).get("f1"), 4),
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

"""The systems in one table of plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empo.reporting.epitome import beside_summary
from empo.reporting.markdown import aligned, number


def summary(results: Mapping[str, Any]) -> str:
    """The systems in one table of plain text, for the terminal; below it controls, warnings and what
    was left out.

    Columns of metrics that no system has are left out.
    """
    rows = [
        "system;n;DIFF-EPITOME;BERTScore;templates;span/total nodes;from root;compression;starts;"
        "distinct-2;self-BLEU;NIDF;|ΔI|;|ΔV|;|ΔA|;|ΔD|;overlap;repeats;characters".split(";")
    ]
    for name, system in results["systems"].items():
        metrics = system["metrics"]
        trie, nidf, iva = (metrics.get(key, {}) for key in ("trie", "nidf", "iva"))
        nodes = [number(trie.get(key), 0) for key in ("span_nodes", "total_nodes")]
        rows.append(
            [
                name,
                str(system["n"]),
                number(metrics.get("diff_epitome", {}).get("mean"), 4),
                number(metrics.get("bertscore", {}).get("f1"), 4),
                number(trie.get("templates"), 0),
                "/".join(nodes) if trie else "—",
                number(trie.get("children_from_root"), 0),
                number(trie.get("compression_ratio"), 5),
                number(trie.get("unique_start_words"), 0),
                number(metrics.get("distinct_n", {}).get("distinct_2"), 3),
                number(metrics.get("self_bleu", {}).get("mean"), 3),
                f"{number(nidf['mean'], 4)} ± {number(nidf['sd'], 4)}" if nidf else "—",
                *(
                    number(iva.get(dimension, {}).get("mean_absolute"), 4)
                    for dimension in ("intensity", "valence", "arousal", "dominance")
                ),
                number(metrics.get("emotion_shares", {}).get("mean"), 3),
                number(metrics.get("repetition", {}).get("mean"), 3),
                number(metrics.get("length", {}).get("mean_characters"), 1),
            ]
        )
    shown = [i for i in range(len(rows[0])) if i < 2 or any(row[i] != "—" for row in rows[1:])]
    left_out = "".join(
        f"\nleft out: {entry['metric']}: {entry['reason']}" for entry in results["not_run"]
    )
    return aligned([[row[i] for i in shown] for row in rows]) + beside_summary(results) + left_out

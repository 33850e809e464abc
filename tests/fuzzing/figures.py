"""The table of figures in docs/fuzzing.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def write_figures(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put a row per reader between the two marks of a markdown file."""
    before, _, rest = path.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    lines = [
        "| reader | inputs | seconds | read | refused | found and mended |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in sorted(rows, key=lambda row: row["reader"]):
        read = row["read"] / max(row["inputs"], 1)
        lines.append(
            f"| {row['reader']} | {row['inputs']:,} | {row['seconds']:.1f} | {read:.1%} | "
            f"{1 - read:.1%} | {row['found'] or '—'} |"
        )
    inputs, seconds = (sum(row[key] for row in rows) for key in ("inputs", "seconds"))
    lines.append(f"| **all {len(rows)}** | {inputs:,} | {seconds:.1f} | | | |")
    path.write_text("\n".join([before + BEGIN, *lines, END + after]), "utf-8")

"""Tables and figures as text: markdown that shows any words as they are, and plain for a terminal."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

_ACTIVE = re.compile(r"([\\`*_\[\]|~#$])")
_AUTOLINK = re.compile(r"(?i)(https?|ftp|mailto|xmpp)(:)|(www)(\.)|(@)")
_BLOCK = re.compile(r"^(?:[-+=](?=[-+=\s]|$)|\d+(?=[.)](?:\s|$)))")
_ENTITY = {":": "&#58;", ".": "&#46;", "@": "&#64;"}


def escape(text: str) -> str:
    """Any text as inline markdown that renders to the same words: no pipe, link, html or heading.

    Line breaks and other runs of white space become one blank. Also safe at the start of a line.
    """
    text = _ACTIVE.sub(r"\\\1", " ".join(text.split()))
    text = html.escape(text, quote=False)
    text = _AUTOLINK.sub(_unlink, text)
    return _BLOCK.sub(lambda match: f"&#{ord(match[0][0])};{match[0][1:]}", text)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table of plain texts, which are escaped; all but the first `left` columns are numbers.

    Ends with a line break.
    """
    rules = ["---" if i < left else "---:" for i in range(len(headers))]
    lines = [list(map(escape, headers)), rules, *(list(map(escape, row)) for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of plain texts with columns of one width, for a terminal; all but the first `left`
    columns are numbers. The first row are the headers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def code(text: str) -> str:
    """Any text as a block of code, its line breaks kept; the fence is longer than any inside it."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}\n"


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits, or an em dash where there is none."""
    return "—" if value is None else f"{value:z.{digits}f}".replace("-", "−")


def interval(bounds: Sequence[float] | None, digits: int = 3) -> str:
    """An interval in brackets, or an em dash where there is none."""
    if bounds is None:
        return "—"
    return f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def _unlink(match: re.Match[str]) -> str:
    """The same words with the sign that makes a renderer see a link written as an entity."""
    return match[0][:-1] + _ENTITY[match[0][-1]]

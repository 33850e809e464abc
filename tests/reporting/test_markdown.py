import pytest
from markdown_it import MarkdownIt

from empo.reporting.markdown import aligned, escape, interval, number, table

HOSTILE = [
    "a | b || c",
    "`code` and ``more``",
    "[link](http://evil.example) ![image](x.png) [ref]: x",
    "see http://evil.example or https://x.org/a_b, www.evil.example, me@evil.example",
    "<script>alert(1)</script> <b>bold</b> a < b & c > d &amp; &lt;",
    "# heading",
    "## ",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "> quote",
    "---",
    "===",
    "***bold*** _it_ __it__ ~~gone~~ $x^2$",
    "back\\slash \\| \\` \\",
    "-5 degrees, 0.5 of it, 3.14",
    "    indented",
    "tabs\tand\u2028separators",
    "line\n\n# heading\n\n| a | b |\n| - | - |",
]


def rendered(markdown):
    """Types of all tokens and the text a reader sees."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inline = [child for token in tokens for child in token.children or []]
    types = {token.type for token in [*tokens, *inline]}
    return types, "".join(child.content for child in inline)


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_renders_to_its_own_words(text):
    types, shown = rendered(escape(text))
    assert types <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special"}
    assert shown == " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_one_cell(text):
    markdown = table(["system", "text"], [["one", text], ["two", "b"]], left=2)
    types, shown = rendered(markdown)
    assert markdown.count("\n") == 4
    assert (
        len(
            [
                t
                for t in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
                if t.type == "td_open"
            ]
        )
        == 4
    )
    assert shown == f"systemtextone{' '.join(text.split())}twob"
    assert not types & {"link_open", "code_inline", "html_inline", "image", "strong_open", "s_open"}


def test_no_address_becomes_a_link():
    for text in ("http://x.org", "HTTPS://x.org", "www.x.org", "a@x.org", "mailto:a"):
        assert not any(sign in escape(text) for sign in ("://", "www.", "@", "mailto:"))


def test_table_source():
    assert table(["system", "n"], [["a|b", "0.5"]]) == (
        "| system | n |\n| --- | ---: |\n| a\\|b | 0.5 |\n"
    )


def test_numbers():
    assert number(0.12345, 3) == "0.123"
    assert number(-1.5, 1) == "−1.5"
    assert number(None) == "—"
    assert interval([-0.1, 0.25], 2) == "[−0.10, 0.25]"
    assert interval(None) == "—"


def test_a_rounded_zero_has_no_sign():
    assert number(-0.00001, 3) == "0.000"


def test_aligned_columns():
    rows = [["name", "n", "value"], ["a longer one", "7", "0.5"], ["b", "10", ""]]
    assert aligned(rows).split("\n") == [
        "name           n  value",
        "a longer one   7    0.5",
        "b             10",
    ]
    assert aligned([["a", "bb"], ["cc", "d"]], left=2) == "a   bb\ncc  d"

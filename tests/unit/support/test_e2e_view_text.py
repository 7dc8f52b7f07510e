"""The texts of boards become HTML."""

import pytest

pytest.importorskip("markupsafe", reason="the kind suite needs the extra e2e")

from support.boards import BOARDS, panels
from support.e2e_view_text import rendered

BOARD = {"templating": {"list": [{"name": "book", "type": "textbox", "query": "docs/book.md"}]}}


def html(content: str) -> str:
    return rendered(BOARD, {"options": {"content": content}})


def test_a_table_has_a_head_and_rows() -> None:
    """What is between the bars is a cell; the rule below the head is none."""
    assert html("| a | b |\n|---|---|\n| 1 | 2 |\n") == (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
        "<tbody><tr><td>1</td><td>2</td></tr></tbody></table>"
    )


def test_what_is_within_a_line_is_kept() -> None:
    """Strong, emphasised and verbatim text; a link says where it leads, which is elsewhere."""
    assert html("**Now** *or* `never`. [Runbook](${book}#now)") == (
        "<p><strong>Now</strong> <em>or</em> <code>never</code>. "
        "Runbook <code>docs/book.md#now</code></p>"
    )


def test_text_is_escaped() -> None:
    """A board's text brings no HTML of its own."""
    assert html("a <b> & c") == "<p>a &lt;b&gt; &amp; c</p>"


@pytest.mark.parametrize("uid", BOARDS)
def test_nothing_of_the_markdown_is_left(uid: str) -> None:
    """On no board there is a mark that was not understood."""
    for panel in panels(BOARDS[uid]):
        if panel["type"] == "text":
            text = rendered(BOARDS[uid], panel)
            assert not [mark for mark in ("**", "`", "](", "${", "|") if mark in text]

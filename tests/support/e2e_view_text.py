"""Renders the Markdown of a board's texts: tables, paragraphs, and what is within a line."""

import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

_RULE = re.compile(r"\|[-| ]+\|")
_INLINE = (
    (r"`(.+?)`", r"<code>\1</code>"),
    (r"\*\*(.+?)\*\*", r"<strong>\1</strong>"),
    (r"\*(.+?)\*", r"<em>\1</em>"),
    # A board's links lead to places that a page on its own does not know.
    (r"\[(.+?)\]\((.+?)\)", r"\1 <code>\2</code>"),
)


def rendered(board: Mapping[str, Any], panel: Mapping[str, Any]) -> Markup:
    """Return the text of a panel as HTML, with the defaults of the board's variables."""
    text = panel["options"]["content"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "textbox":
            text = text.replace(f"${{{variable['name']}}}", variable["query"])
    blocks = groupby(text.strip().splitlines(), lambda line: line.startswith("|"))
    return Markup("\n").join(
        _table(list(lines)) if table else Markup("<p>{}</p>").format(_inline(" ".join(lines)))
        for table, lines in blocks
    )


def _table(lines: list[str]) -> Markup:
    head, *rows = [line for line in lines if not _RULE.fullmatch(line)]
    return Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(
        _row(head, "th"), Markup("").join(_row(row, "td") for row in rows)
    )


def _row(line: str, tag: str) -> Markup:
    cells = (_inline(cell.strip()) for cell in line.strip("|").split("|"))
    joined = Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(cell) for cell in cells)  # noqa: S704
    return Markup("<tr>{}</tr>").format(joined)


def _inline(text: str) -> Markup:
    safe = str(escape(text))
    for written, meant in _INLINE:
        safe = re.sub(written, meant, safe)
    return Markup(safe)  # noqa: S704 - it was escaped above

"""Reads the committed boards as Grafana would: panels, queries, and what queries select."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
BOARDS: dict[str, Any] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")
}

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_FILLED = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$namespace": ".*",
    "$job": ".+",
    "$instance": ".+",
    "$policy": ".+",
    "$store_job": ".+",
    "$store_instance": ".+",
}
"""What Grafana writes for each variable where the reader picked all; longer names first."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel, or of the moments that a board marks.

    Args:
        board: Uid of the board.
        panel: The panel; empty for a moment.
        title: Title of the panel, or name of the moment.
        target: The query.
    """

    board: str
    panel: dict[str, Any]
    title: str
    target: dict[str, Any]

    @property
    def expression(self) -> str:
        """What is asked, with the variables in it."""
        return str(self.target["expr"])

    def __str__(self) -> str:
        return f"{self.board}, {self.title}, {self.target.get('refId', 'moment')}"


def panels(board: Any) -> list[dict[str, Any]]:
    """Return the panels of a board, without the heads of rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(kind: str = "prometheus") -> list[Query]:
    """Return every query to a kind of data source, on any board."""
    return [
        Query(uid, panel, panel["title"], target)
        for uid, board in BOARDS.items()
        for panel in panels(board)
        if panel.get("datasource", {}).get("type") == kind
        for target in panel["targets"]
    ]


def moments() -> list[Query]:
    """Return the queries of the moments that boards mark."""
    return [
        Query(uid, {}, moment["name"], moment)
        for uid, board in BOARDS.items()
        for moment in board["annotations"]["list"]
    ]


def filled(expression: str) -> str:
    """Write what Grafana would in place of the variables, where the reader picked all."""
    for name in sorted(_FILLED, key=len, reverse=True):
        expression = expression.replace(name, _FILLED[name])
    return expression


def selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Return what a query selects: names, each with operator and value of every label."""
    return [
        (name, {label: (sign, value) for label, sign, value in _MATCHER.findall(inner)})
        for name, inner in _SELECTOR.findall(expression)
    ]


def words(expression: str) -> set[str]:
    """Return the bare words of a query: not in selectors, strings, label lists or durations."""
    rest = _SELECTOR.sub(" ", expression)
    rest = re.sub(r'"[^"]*"', " ", rest)
    rest = re.sub(r"\b(by|on|group_left|without|ignoring)\s*\([^)]*\)", r" \1 ", rest)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*", rest))


def kept_labels(expression: str) -> set[str]:
    """Return the labels that a query keeps or makes."""
    kept = re.findall(r"\bby \(([^)]*)\)", expression)
    made = re.findall(r'label_replace\(.*?, "(\w+)"', expression)
    return {label.strip() for labels in kept for label in labels.split(",")} | set(made)

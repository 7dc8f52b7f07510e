"""Committed dashboards: their panels, queries, and the parts of a query."""

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
"""Value of each variable with its option `All` selected."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query of a panel or of an annotation.

    Args:
        board: Uid of the dashboard.
        panel: The panel; empty for an annotation.
        title: Title of the panel or name of the annotation.
        target: The query.
    """

    board: str
    panel: dict[str, Any]
    title: str
    target: dict[str, Any]

    @property
    def expression(self) -> str:
        """The PromQL expression with its variables."""
        return str(self.target["expr"])

    def __str__(self) -> str:
        return f"{self.board}, {self.title}, {self.target.get('refId', 'moment')}"


def panels(board: Any) -> list[dict[str, Any]]:
    """Return the panels of a dashboard without its rows."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(kind: str = "prometheus") -> list[Query]:
    """Return the queries of all dashboards to one type of data source."""
    return [
        Query(uid, panel, panel["title"], target)
        for uid, board in BOARDS.items()
        for panel in panels(board)
        if panel.get("datasource", {}).get("type") == kind
        for target in panel["targets"]
    ]


def moments() -> list[Query]:
    """Return the annotation queries of all dashboards."""
    return [
        Query(uid, {}, moment["name"], moment)
        for uid, board in BOARDS.items()
        for moment in board["annotations"]["list"]
    ]


def filled(expression: str) -> str:
    """Return a query with its variables replaced, each with its option `All`."""
    for name in sorted(_FILLED, key=len, reverse=True):
        expression = expression.replace(name, _FILLED[name])
    return expression


def selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Return the selectors of a query: metric name, and operator and value of each label."""
    return [
        (name, {label: (sign, value) for label, sign, value in _MATCHER.findall(inner)})
        for name, inner in _SELECTOR.findall(expression)
    ]


def words(expression: str) -> set[str]:
    """Return the identifiers of a query outside selectors, strings, label lists and durations."""
    rest = _SELECTOR.sub(" ", expression)
    rest = re.sub(r'"[^"]*"', " ", rest)
    rest = re.sub(r"\b(by|on|group_left|without|ignoring)\s*\([^)]*\)", r" \1 ", rest)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*", rest))


def kept_labels(expression: str) -> set[str]:
    """Return the labels that a query keeps or adds."""
    kept = re.findall(r"\bby \(([^)]*)\)", expression)
    made = re.findall(r'label_replace\(.*?, "(\w+)"', expression)
    return {label.strip() for labels in kept for label in labels.split(",")} | set(made)

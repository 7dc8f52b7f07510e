"""Committed dashboards as Grafana reads them: panels, queries, and the selectors in the queries."""

import json
import re
from dataclasses import dataclass
from typing import Any

from support.tool import ROOT

FILES = ROOT / "charts" / "fleetlimit" / "files"
FOLDER = FILES / "dashboards"
BOARDS: dict[str, Any] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.json")
}

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_VALUES = {
    "$__rate_interval": "1m",
    "$__range": "1h",
    "$namespace": ".*",
    "$job": ".+",
    "$instance": ".+",
    "$policy": ".+",
    "$store_job": ".+",
    "$store_instance": ".+",
}
"""Grafana's value of each variable if everything is selected."""


@dataclass(frozen=True, slots=True)
class Query:
    """Query of a panel or of an annotation.

    Args:
        board: Uid of the dashboard.
        panel: The panel; empty for an annotation.
        title: Title of the panel, or name of the annotation.
        target: The query as JSON.
    """

    board: str
    panel: dict[str, Any]
    title: str
    target: dict[str, Any]

    @property
    def expression(self) -> str:
        """PromQL or LogQL, with Grafana's variables."""
        return str(self.target["expr"])

    def __str__(self) -> str:
        return f"{self.board}, {self.title}, {self.target.get('refId', 'annotation')}"


def panels(board: Any) -> list[dict[str, Any]]:
    """Return the panels of a dashboard without row heads, those of collapsed rows included."""
    found = (each["panels"] if each["type"] == "row" else [each] for each in board["panels"])
    return [panel for group in found for panel in group]


def queries(kind: str = "prometheus") -> list[Query]:
    """Return the queries of all panels to one kind of data source."""
    return [
        Query(uid, panel, panel["title"], target)
        for uid, board in BOARDS.items()
        for panel in panels(board)
        if panel.get("datasource", {}).get("type") == kind
        for target in panel["targets"]
    ]


def moments() -> list[Query]:
    """Return the queries of all annotations."""
    return [
        Query(uid, {}, annotation["name"], annotation)
        for uid, board in BOARDS.items()
        for annotation in board["annotations"]["list"]
    ]


def filled(expression: str) -> str:
    """Replace Grafana's variables by their values if everything is selected."""
    for name in sorted(_VALUES, key=len, reverse=True):
        expression = expression.replace(name, _VALUES[name])
    return expression


def selectors(expression: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Return the metric of each selector, with operator and value of each label."""
    return [
        (name, {label: (operator, value) for label, operator, value in _MATCHER.findall(inner)})
        for name, inner in _SELECTOR.findall(expression)
    ]


def words(expression: str) -> set[str]:
    """Return the words outside of selectors, strings, label lists and durations."""
    rest = _SELECTOR.sub(" ", expression)
    rest = re.sub(r'"[^"]*"', " ", rest)
    rest = re.sub(r"\b(by|on|group_left|without|ignoring)\s*\([^)]*\)", r" \1 ", rest)
    rest = re.sub(r"\[[^\]]*\]", " ", rest)
    return set(re.findall(r"\b[a-zA-Z_:][\w:]*", rest))


def kept_labels(expression: str) -> set[str]:
    """Return the labels of the result: those of `by`, and those that `label_replace` adds."""
    kept = re.findall(r"\bby \(([^)]*)\)", expression)
    added = re.findall(r'label_replace\(.*?, "(\w+)"', expression)
    return {label.strip() for labels in kept for label in labels.split(",")} | set(added)

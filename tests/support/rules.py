"""Reads the committed rules as Prometheus would, and the cases that they are tested with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from support.boards import FOLDER

FILE = FOLDER / "rules.yaml"
CASES = sorted((Path(__file__).resolve().parents[1] / "dashboards" / "rules").glob("*.yaml"))

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: str(rule["expr"]) for rule in RULES if "record" in rule}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rule asks.

    Args:
        name: Name of the alert, or of what is recorded.
        rule: The rule.
    """

    name: str
    rule: dict[str, Any]

    @property
    def expression(self) -> str:
        """What is asked."""
        return str(self.rule["expr"])

    def __str__(self) -> str:
        return f"rules, {self.name}"


def asked() -> list[Asked]:
    """Return what every rule asks."""
    return [Asked(rule.get("alert") or rule["record"], rule) for rule in RULES]


def cases(alert: str) -> list[dict[str, Any]]:
    """Return what an alert is expected to be, at each moment of each of its cases."""
    return [
        moment
        for file in CASES
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
        for moment in case["alert_rule_test"]
        if moment["alertname"] == alert
    ]

"""Committed recording rules and alerts, and their promtool cases."""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from support.boards import FILES
from support.tool import ROOT

FILE = FILES / "rules.yaml"
FILE_INFO = FILES / "rules-info.yaml"
CASES = sorted((ROOT / "tests" / "dashboards" / "rules").glob("*.yaml"))

GROUPS: list[dict[str, Any]] = [
    group
    for file in (FILE, FILE_INFO)
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"]: str(rule["expr"]) for rule in RULES if "record" in rule}


@dataclass(frozen=True, slots=True)
class RuleQuery:
    """Query of a rule, with the name of the alert or of the recorded series."""

    name: str
    rule: dict[str, Any]

    @property
    def expression(self) -> str:
        """PromQL."""
        return str(self.rule["expr"])

    def __str__(self) -> str:
        return f"rules, {self.name}"


def queries() -> list[RuleQuery]:
    """Return the queries of all rules."""
    return [RuleQuery(rule.get("alert") or rule["record"], rule) for rule in RULES]


def cases(alert: str) -> list[dict[str, Any]]:
    """Return the expectations of all cases for an alert, one per evaluation time."""
    return [
        expectation
        for file in CASES
        for case in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
        for expectation in case["alert_rule_test"]
        if expectation["alertname"] == alert
    ]


def groups_of(alert: str) -> list[dict[str, Any]]:
    """Return the groups with the rules of one alert and of the recorded series that it reads.

    promtool evaluates each rule of a file at each minute of each case. No other rule changes the
    result for the alert.
    """
    used, unread = set[str](), [str(each["expr"]) for each in ALERTS if each["alert"] == alert]
    while unread:
        names = _recorded_in(unread.pop()) - used
        used |= names
        unread += [RECORDED[name] for name in names]
    return [
        {**group, "rules": kept}
        for group in GROUPS
        if (
            kept := [
                rule
                for rule in group["rules"]
                if rule.get("alert") == alert or rule.get("record") in used
            ]
        )
    ]


def _recorded_in(expression: str) -> set[str]:
    return set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*", expression)) & set(RECORDED)

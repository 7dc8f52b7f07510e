"""Says what an alert is: a condition that somebody has to know of, and where to look."""

from dataclasses import dataclass
from typing import Final

from boards import panel_path
from recordings import Rule
from variables import RUNBOOK

PAGE: Final = "page"
"""Somebody has to act now."""
TICKET: Final = "ticket"
"""Somebody has to act this week."""
# Prometheus fills in the labels of the release; an alert about one that is gone may have none.
_PICKED: Final = "".join(
    f"{{{{ with $labels.{label} }}}}&var-{label}={{{{ . }}}}{{{{ end }}}}"
    for label in ("namespace", "job")
)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert.

    Args:
        name: Its name, and in lower case that of its section in the runbook.
        expression: Its condition.
        lasting: How long that must hold.
        severity: `PAGE` or `TICKET`.
        summary: What is the matter, in one line.
        detail: The same with where and how much.
        panel: Uid of the board and title of the panel that show it.
        window: Over what it looks, to tell alerts of one name apart.
    """

    name: str
    expression: str
    lasting: str
    severity: str
    summary: str
    detail: str
    panel: tuple[str, str]
    window: str = ""

    def as_rule(self) -> Rule:
        """Return it as Prometheus reads it.

        Raises:
            KeyError: There is no such panel.
        """
        window = {"window": self.window} if self.window else {}
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasting,
            "labels": {"severity": self.severity, **window},
            "annotations": {
                "summary": self.summary,
                "description": self.detail,
                "runbook_url": f"{RUNBOOK}#{self.name.lower()}",
                "dashboard": f"{panel_path(*self.panel)}{_PICKED}",
            },
        }

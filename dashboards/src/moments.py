"""Marks in every graph when policies changed, the store was away or empty, and pods started."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import AnnotationQuery

import moment_queries
from meaning import BLUE, ORANGE, PURPLE, RED
from promql import POD, RELEASE
from variables import PROMETHEUS

_STEP: Final = "30s"
"""Moments that are no further apart are one."""
_WHERE: Final = "/".join(f"{{{{{label}}}}}" for label in RELEASE)


class _Mark(AnnotationQuery):
    """A query of moments in Prometheus, with fields that the SDK does not have."""

    further: dict[str, object]

    def to_json(self) -> dict[str, object]:
        """Return the SDK's fields and the further ones."""
        return {**super().to_json(), **self.further}


@dataclass(frozen=True, slots=True)
class Moment(Builder[AnnotationQuery]):
    """Something that happened.

    Args:
        name: Name of the switch that shows or hides it.
        expression: Series that are above 0 while it happens.
        title: What to say; labels in double braces.
        color: Colour of the mark.
        text: More to say.
        is_time: Whether the value is the moment, in milliseconds.
    """

    name: str
    expression: str
    title: str
    color: str
    text: str = _WHERE
    is_time: bool = False

    def build(self) -> AnnotationQuery:
        """Return it as Grafana has it."""
        mark = _Mark(
            name=self.name,
            datasource=PROMETHEUS,
            icon_color=self.color,
            expr=self.expression,
        )
        mark.further = {"titleFormat": self.title, "textFormat": self.text, "step": _STEP}
        if self.is_time:
            mark.further["useValueForTime"] = True
        return mark


def moments() -> Sequence[Moment]:
    """Return what is marked on every board."""
    return (
        Moment("Reloads", moment_queries.policies_reloaded(), "Policies: {{result}}", BLUE),
        Moment("Store outages", moment_queries.store_away(), "The store was not asked", RED),
        Moment(
            "Store emptied",
            moment_queries.store_came_back_empty(),
            "The store lost its state: limits started anew",
            ORANGE,
        ),
        Moment(
            "Restarts",
            moment_queries.process_starts(),
            "Pod started",
            PURPLE,
            text=f"{{{{{POD}}}}}",
            is_time=True,
        ),
    )

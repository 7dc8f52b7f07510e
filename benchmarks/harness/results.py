"""Measured figures by scene and contender, one value for each round."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from statistics import median
from typing import Any, Final

Figures = dict[str, float]
CPU: Final = "server us/request"
"""Figure: CPU time of the server for each request, in microseconds."""
OF_BARE: Final = "of bare"
"""Figure: rate relative to that of the app without a limiter."""
OF_LOAD: Final = "of load"
"""Figure: rate relative to that of a fixed schedule. Below 1, the contender fell behind it."""
ABOVE_BARE: Final = "above bare"
"""Figure: CPU time above that of the app without a limiter, in microseconds."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The figures of one scene.

    Args:
        name: Name on the command line and in the JSON file.
        title: Title of the table, with the unit.
        rounds: Figures of each round, by contender.
        whole: Figures of all rounds as one, such as a percentile of all requests, by contender.
    """

    name: str
    title: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)
    whole: dict[str, Figures] = field(default_factory=dict)

    def add(self, contender: str, figures: Figures) -> None:
        """Add a contender's figures of one round."""
        self.rounds.setdefault(contender, []).append(figures)

    def include(self, other: "Scene", label: str) -> None:
        """Add the figures of another scene, with a label after the names of its contenders."""
        for contender, rounds in other.rounds.items():
            self.rounds[f"{contender}, {label}"] = rounds
        for contender, figures in other.whole.items():
            self.whole[f"{contender}, {label}"] = figures

    def keep(self, *figures: str) -> None:
        """Drop all other figures."""
        for each in (*chain(*self.rounds.values()), *self.whole.values()):
            for name in each.keys() - {*figures}:
                del each[name]

    def compare(self, figure: str, base: str) -> None:
        """Add to each round the ratio of a figure to the base contender's in the same round.

        The ratio is left out where the base contender was not measured, or its figure is 0.
        """
        for figures, others in self._with_base(base):
            if others[figure]:
                figures[f"of {base}"] = figures[figure] / others[figure]

    def subtract(self, figure: str, base: str) -> None:
        """Add to each round a figure minus the base contender's in the same round.

        The difference is left out where the base contender was not measured.
        """
        for figures, others in self._with_base(base):
            figures[f"above {base}"] = figures[figure] - others[figure]

    def _with_base(self, base: str) -> Iterator[tuple[Figures, Figures]]:
        """Yield the figures of each round, and the base contender's in the same round."""
        for rounds in self.rounds.values():
            yield from zip(rounds, self.rounds.get(base, ()), strict=False)

    def values(self, contender: str, figure: str) -> list[float]:
        """Return the values of a figure: one for each round, or one of all rounds."""
        whole = self.whole.get(contender, {})
        if figure in whole:
            return [whole[figure]]
        return [each[figure] for each in self.rounds.get(contender, []) if figure in each]

    def median(self, contender: str, figure: str) -> float | None:
        """Return the median of a figure; None if it was not measured."""
        values = self.values(contender, figure)
        return median(values) if values else None

    def figures(self) -> list[str]:
        """Return the names of all figures, in the order of their first appearance."""
        each_round = (each for rounds in self.rounds.values() for each in rounds)
        return list(dict.fromkeys(chain(*each_round, *self.whole.values())))

    def summary(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return median, minimum, maximum and every round, by contender and figure."""
        return {
            contender: {
                name: _spread(self.values(contender, name))
                for name in self.figures()
                if self.values(contender, name)
            }
            for contender in self.rounds
        }


def _spread(values: list[float]) -> dict[str, Any]:
    rounded = [round(value, 4) for value in values]
    return {
        "median": round(median(values), 4),
        "least": min(rounded),
        "most": max(rounded),
        "rounds": rounded,
    }

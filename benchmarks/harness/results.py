"""Measured figures by scene and contender, one value for each round."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """The figures of one scene.

    Args:
        name: Name on the command line and in the JSON file.
        title: Title of the table, with the unit.
        rounds: Figures of each round, by contender.
    """

    name: str
    title: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)

    def add(self, contender: str, figures: Figures) -> None:
        """Add a contender's figures of one round."""
        self.rounds.setdefault(contender, []).append(figures)

    def compare(self, figure: str, base: str) -> None:
        """Add to each round the ratio of a figure to the base contender's in the same round."""
        for rounds in self.rounds.values():
            for figures, other in zip(rounds, self.rounds[base], strict=False):
                figures[f"of {base}"] = figures[figure] / other[figure]

    def values(self, contender: str, figure: str) -> list[float]:
        """Return the values of a figure, one for each round."""
        return [each[figure] for each in self.rounds.get(contender, []) if figure in each]

    def median(self, contender: str, figure: str) -> float | None:
        """Return the median of a figure; None if it was not measured."""
        values = self.values(contender, figure)
        return median(values) if values else None

    def figures(self) -> list[str]:
        """Return the names of all figures, in the order of their first appearance."""
        every = (name for rounds in self.rounds.values() for each in rounds for name in each)
        return list(dict.fromkeys(every))

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

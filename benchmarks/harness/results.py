"""What was measured: figures by scene and contender, one value for each round."""

from dataclasses import dataclass, field
from statistics import median
from typing import Any

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """The figures of one scene.

    Args:
        name: Its name.
        title: What is measured, for people.
        rounds: By contender the figures of each round.
    """

    name: str
    title: str
    rounds: dict[str, list[Figures]] = field(default_factory=dict)

    def add(self, contender: str, figures: Figures) -> None:
        """Add a contender's figures of one round."""
        self.rounds.setdefault(contender, []).append(figures)

    def compare(self, figure: str, base: str) -> None:
        """Add to each round a figure's ratio to that of the base in the same round."""
        for rounds in self.rounds.values():
            for figures, other in zip(rounds, self.rounds[base], strict=False):
                figures[f"of {base}"] = figures[figure] / other[figure]

    def values(self, contender: str, figure: str) -> list[float]:
        """Return a figure's values, one a round."""
        return [each[figure] for each in self.rounds.get(contender, []) if figure in each]

    def median(self, contender: str, figure: str) -> float | None:
        """Return a figure's median; None where it was not measured."""
        values = self.values(contender, figure)
        return median(values) if values else None

    def figures(self) -> list[str]:
        """Return the names of all figures, in the order in which they were first added."""
        every = (name for rounds in self.rounds.values() for each in rounds for name in each)
        return list(dict.fromkeys(every))

    def summary(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return median, least, most and every round, by contender and figure."""
        return {
            contender: {
                name: _spread(self.values(contender, name))
                for name in self.figures()
                if self.values(contender, name)
            }
            for contender in self.rounds
        }


def _spread(values: list[float]) -> dict[str, Any]:
    kept = [round(value, 4) for value in values]
    return {
        "median": round(median(values), 4),
        "least": min(kept),
        "most": max(kept),
        "rounds": kept,
    }

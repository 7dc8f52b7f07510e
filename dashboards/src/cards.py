"""What panels are made of: a place on the board, queries, and where a value leads to."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """What every panel has.

    Args:
        number: Fixed, and never given to another panel: alerts link to it.
        title: Says what is shown.
        about: Says what it means.
        width: Of 24 columns.
        height: In rows of the grid.
    """

    number: int
    title: str
    about: str
    width: int = 12
    height: int = 8


def small(number: int, title: str, about: str, width: int = 4) -> Card:
    """Return what a figure in the first line of a board has."""
    return Card(number, title, about, width, 4)


@dataclass(frozen=True, slots=True)
class Line:
    """A query of a graph.

    Args:
        expression: What to ask.
        legend: Name of each series; labels in double braces.
        exemplars: Show the traces that belong to it.
    """

    expression: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A link from a value.

    Args:
        title: What it leads to.
        path: Where it leads to.
    """

    title: str
    path: str

"""How much is done to measure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done.

    Args:
        rounds: How often each contender has its turn.
        seconds: How long it is measured in each.
        warm: How long it is under load before that.
        few: Principals after which the memory of a replica is looked at first.
        many: And for the second time.
        asked: How often each caller asks before its bucket is looked at.
    """

    rounds: int = 5
    seconds: float = 4.0
    warm: float = 1.0
    few: int = 10_000
    many: int = 1_000_000
    asked: int = 50


SHORT = Effort(rounds=1, seconds=0.3, warm=0.2, few=500, many=2_000, asked=3)
"""Enough to see that everything works, and for nothing else."""

"""Duration and repetitions of a measurement."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Effort:
    """Duration and repetitions of a measurement.

    Args:
        rounds: Rounds, each with one turn of every contender.
        seconds: Seconds that a turn measures.
        warm: Seconds of load before the first turn.
        few: Principals before the first reading of a replica's memory.
        many: Principals before the second reading.
        requests_each: Requests of each caller before the size of its bucket is read.
    """

    rounds: int = 5
    seconds: float = 4.0
    warm: float = 1.0
    few: int = 10_000
    many: int = 1_000_000
    requests_each: int = 50


SHORT = Effort(rounds=1, seconds=0.3, warm=0.2, few=500, many=2_000, requests_each=3)
"""Smoke test: shows that every scene runs; the figures mean nothing."""

"""What is good and what is bad: colours, the values where they begin, words for values and gaps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
from grafana_foundation_sdk.models.dashboard import (
    DashboardSpecialValueMapOptions,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)

GREEN: Final = "green"
BLUE: Final = "blue"
PURPLE: Final = "purple"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
GREY: Final = "#7b8087"

Steps = tuple[tuple[float | None, str], ...]
"""Colours, each with the value it begins at; the first begins below everything."""
Words = Mapping[int, tuple[str, str]]
"""Text and colour that stand in place of a value."""

NEUTRAL: Final[Steps] = ((None, BLUE),)
"""Neither good nor bad: a denial is no error."""
NONE_IS_GOOD: Final[Steps] = ((None, GREEN), (1e-6, RED))
NONE_IS_BETTER: Final[Steps] = ((None, GREEN), (1e-6, ORANGE))
SOME_IS_GOOD: Final[Steps] = ((None, ORANGE), (1, GREEN))
ONE_IS_GOOD: Final[Steps] = ((None, GREEN), (2, RED))
STORE_TIME: Final[Steps] = ((None, GREEN), (0.025, ORANGE), (0.05, RED))
"""Seconds: half of the store's usual timeout, and all of it."""
FULL: Final[Steps] = ((None, GREEN), (0.75, ORANGE), (0.9, RED))
"""A part of 1."""


@dataclass(frozen=True, slots=True)
class Empty:
    """What a panel says in place of a value that there is not.

    Args:
        text: Why there is none.
        color: Whether that is bad.
    """

    text: str
    color: str = GREY


NOT_SCRAPED: Final = Empty("no data", ORANGE)
"""What is said by panels that have values as long as a pod is scraped."""
NOT_AUDITED: Final = Empty("not audited", ORANGE)
NO_CHECKS: Final = Empty("no checks")
NO_STORE_CALLS: Final = Empty("no store calls")
NO_SHADOW: Final = Empty("nothing in shadow was over its limit")
NO_DENIALS: Final = Empty("no denials")
NO_EXPORTER: Final = Empty("no exporter of the store")
NO_MEMORY_LIMIT: Final = Empty("no memory limit, or no exporter of the store")
NO_LOGS: Final = Empty("no such lines, or no Loki")


def thresholds(steps: Steps) -> ThresholdsConfig:
    """Return the steps as Grafana has them."""
    found = [Threshold(value=value, color=color) for value, color in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def mappings(words: Words, empty: Empty) -> list[ValueMapping]:
    """Return the words as Grafana has them; without its own, a gap has the colour of good."""
    told = ValueMappingResult(text=empty.text, color=empty.color)
    gap = SpecialValueMap(DashboardSpecialValueMapOptions(SpecialValueMatch.NULL_AND_NAN, told))
    if not words:
        return [gap]
    spelled = {
        str(value): ValueMappingResult(text=text, color=color)
        for value, (text, color) in words.items()
    }
    return [ValueMap(spelled), gap]

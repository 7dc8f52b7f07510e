"""Colours, thresholds, value mappings and no-data texts that all panels share."""

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
ORANGE: Final = "orange"
RED: Final = "red"
GREY: Final = "#7b8087"

Steps = tuple[tuple[float | None, str], ...]
"""Thresholds: each colour with its lower bound; the first has none."""
ValueTexts = Mapping[int, tuple[str, str]]
"""Text and colour that replace a value."""

NEUTRAL: Final[Steps] = ((None, BLUE),)
"""For values that are neither good nor bad, such as denials."""
ZERO_IS_GOOD: Final[Steps] = ((None, GREEN), (1e-6, RED))
ZERO_IS_BETTER: Final[Steps] = ((None, GREEN), (1e-6, ORANGE))
ABOVE_ZERO_IS_GOOD: Final[Steps] = ((None, ORANGE), (1, GREEN))
ONE_IS_GOOD: Final[Steps] = ((None, GREEN), (2, RED))
STORE_SECONDS: Final[Steps] = ((None, GREEN), (0.025, ORANGE), (0.05, RED))
"""Half of the default store timeout of 50 ms, and the timeout."""
MEMORY_USE: Final[Steps] = ((None, GREEN), (0.75, ORANGE), (0.9, RED))
"""Fractions of `maxmemory`."""


@dataclass(frozen=True, slots=True)
class NoData:
    """Text and colour of a panel without values."""

    text: str
    color: str = GREY


NOT_SCRAPED: Final = NoData("no data", ORANGE)
"""For panels that have values whenever a pod is scraped."""
NOT_AUDITED: Final = NoData("not audited", ORANGE)
NO_CHECKS: Final = NoData("no checks")
NO_STORE_CALLS: Final = NoData("no store calls")
NO_DENIALS: Final = NoData("no denials")
NO_SHADOW_DENIALS: Final = NoData("no shadow denials")
NO_EXPORTER: Final = NoData("no redis_exporter")
NO_MEMORY_LIMIT: Final = NoData("no maxmemory, or no redis_exporter")
NO_LOGS: Final = NoData("no matching log lines, or no Loki")


def thresholds(steps: Steps) -> ThresholdsConfig:
    """Return the steps as absolute thresholds."""
    found = [Threshold(value=value, color=color) for value, color in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def value_mappings(texts: ValueTexts) -> list[ValueMapping]:
    """Return the mapping of values to texts."""
    spelled = {
        str(value): ValueMappingResult(text=text, color=color)
        for value, (text, color) in texts.items()
    }
    return [ValueMap(spelled)] if texts else []


def no_data_mapping(no_data: NoData) -> ValueMapping:
    """Return the mapping of a missing value. By default Grafana paints it in the first colour."""
    result = ValueMappingResult(text=no_data.text, color=no_data.color)
    return SpecialValueMap(DashboardSpecialValueMapOptions(SpecialValueMatch.NULL_AND_NAN, result))

"""Says what Grafana would say of a value: its unit, its colour, the words in its place."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from support.e2e_figure import BLUE, GREEN, ORANGE, PURPLE, VERMILION, YELLOW

GREY: Final = "#7B8087"
_COLORS: Final = {
    "green": GREEN,
    "blue": BLUE,
    "purple": PURPLE,
    "yellow": YELLOW,
    "orange": ORANGE,
    "red": VERMILION,
}
_RATES: Final = {"reqps": "req/s", "ops": "ops/s", "cps": "/s"}
_COUNTS: Final = ((1e9, " G"), (1e6, " M"), (1e3, " K"), (1.0, ""))
_SCALES: Final[Mapping[str, tuple[tuple[float, str], ...]]] = {
    "percentunit": ((0.01, " %"),),
    "bytes": ((2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"), (1.0, " B")),
    "s": (
        *((86_400.0, " d"), (3_600.0, " h"), (60.0, " min"), (1.0, " s")),
        *((1e-3, " ms"), (1e-6, " µs")),
    ),
}

_THREE_DIGITS: Final = 100

Settings = Mapping[str, Any]
"""What a panel says of a series, by the ids that overrides have for it."""


def settings(panel: Mapping[str, Any], name: str) -> Settings:
    """Return what a panel says of a series or column: what holds for all, and its own over it."""
    config = panel["fieldConfig"]
    found = {key: value for key, value in config["defaults"].items() if key != "custom"}
    found |= {f"custom.{key}": at for key, at in config["defaults"].get("custom", {}).items()}
    for override in config["overrides"]:
        kind, wanted = override["matcher"]["id"], override["matcher"]["options"]
        if re.search(wanted.strip("/"), name) if kind == "byRegexp" else wanted == name:
            found |= {each["id"]: each["value"] for each in override["properties"]}
    return found


def color(name: str) -> str:
    """Return a colour that has a name at Grafana, as readers with any colour vision see it."""
    return _COLORS.get(name, name)


def rate(unit: str) -> str:
    """Return what a rate is of, or nothing."""
    return _RATES.get(unit, "")


def scale(value: float, unit: str) -> tuple[float, str]:
    """Return how large what a number is best told in is, and its name."""
    scales = _SCALES.get(unit, _COUNTS)
    if not value:
        return min(scales, key=lambda each: abs(each[0] - 1))
    return next((each for each in scales if abs(value) >= each[0]), scales[-1])


def number(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a number in a unit of Grafana, without that of a rate.

    Args:
        value: The number.
        unit: Its unit.
        decimals: Digits after the point, where they are not as many as tell most.
    """
    size, suffix = scale(value, unit)
    value /= size
    if decimals is None:
        return (f"{value:.3g}" if abs(value) < _THREE_DIGITS else f"{value:.0f}") + suffix
    return f"{value:.{decimals}f}{suffix}"


def shown(value: float, told: Settings) -> tuple[str, str]:
    """Return the text and the colour of a value.

    Args:
        value: The value; NaN for none.
        told: What its panel says of it.
    """
    for mapping in told.get("mappings", ()):
        options = mapping["options"]
        gap = mapping["type"] == "special" and math.isnan(value)
        if found := options["result"] if gap else options.get(f"{value:g}"):
            return found["text"], color(found["color"])
    if math.isnan(value):
        return told["noValue"], GREY
    text = f"{number(value, told['unit'], told.get('decimals'))} {rate(told['unit'])}".strip()
    steps = told.get("thresholds", {}).get("steps", ())
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return text, color(reached[-1]) if reached else GREY

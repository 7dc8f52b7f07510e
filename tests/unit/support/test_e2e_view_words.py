"""Values are said as Grafana would say them."""

import math
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the kind suite needs the extra e2e")

from support.e2e_figure import BLUE, GREEN, VERMILION
from support.e2e_view_words import GREY, color, number, settings, shown


def panel(overrides: list[dict[str, Any]]) -> dict[str, Any]:
    defaults = {"unit": "short", "custom": {"fillOpacity": 8, "lineWidth": 1}}
    return {"fieldConfig": {"defaults": defaults, "overrides": overrides}}


def override(kind: str, wanted: str, **properties: object) -> dict[str, Any]:
    found = [{"id": key.replace("__", "."), "value": value} for key, value in properties.items()]
    return {"matcher": {"id": kind, "options": wanted}, "properties": found}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (0.000_25, "s", "250 µs"),
        (0.006_333, "s", "6.33 ms"),
        (90, "s", "1.5 min"),
        (0, "percentunit", "0 %"),
        (0.0325, "percentunit", "3.25 %"),
        (85 * 2**20, "bytes", "85 MiB"),
        (1_023, "bytes", "1023 B"),
        (999.9, "short", "1000"),
        (12_345, "short", "12.3 K"),
        (33.4, "reqps", "33.4"),
        (-5, "short", "-5"),
    ],
)
def test_a_number_is_told_in_the_size_that_fits(value: float, unit: str, text: str) -> None:
    """It has about three digits, and what they are of."""
    assert number(value, unit) == text


def test_decimals_are_as_many_as_a_panel_asks_for() -> None:
    """A count that was extrapolated is shown without a fraction."""
    assert number(58.4, "short", 0) == "58"
    assert number(58.4, "short", 2) == "58.40"


def test_an_override_holds_for_its_name_alone() -> None:
    """A name matches as a whole, an expression anywhere; what is not overridden stays."""
    shares = panel(
        [
            override("byName", "local", unit="ops"),
            override("byRegexp", "/permitted$/", custom__fillOpacity=0),
        ]
    )
    usual = {"unit": "short", "custom.fillOpacity": 8, "custom.lineWidth": 1}
    assert settings(shares, "local or not") == usual
    assert settings(shares, "local") == usual | {"unit": "ops"}
    assert settings(shares, "bucket permitted") == usual | {"custom.fillOpacity": 0}


def test_a_value_has_the_colour_of_the_last_step_that_it_reached() -> None:
    """The first step begins below everything; without steps it is grey."""
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 2}]
    told = {"unit": "reqps", "thresholds": {"steps": steps}}
    assert shown(1.9, told) == ("1.9 req/s", GREEN)
    assert shown(2, told) == ("2 req/s", VERMILION)
    assert shown(2, {"unit": "short"}) == ("2", GREY)


def test_words_stand_in_place_of_values_and_of_gaps() -> None:
    """Where there are none for a gap, the panel's words for nothing do."""
    asked = {"type": "value", "options": {"0": {"text": "asked", "color": "blue"}}}
    gap = {"match": "null+nan", "result": {"text": "not audited", "color": "red"}}
    told = {"unit": "short", "mappings": [asked, {"type": "special", "options": gap}]}
    assert shown(0, told) == ("asked", BLUE)
    assert shown(1, told) == ("1", GREY)
    assert shown(math.nan, told) == ("not audited", VERMILION)
    assert shown(math.nan, {"noValue": "no data"}) == ("no data", GREY)


def test_a_colour_of_its_own_is_kept() -> None:
    """Only names are translated."""
    assert (color("blue"), color("#7b8087")) == (BLUE, "#7b8087")

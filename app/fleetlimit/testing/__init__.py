"""Test helpers for applications: a manual clock, assertions, and pytest fixtures.

The fixtures run the production code.

pytest loads the fixtures of `fleetlimit.testing.plugin` in every run once the package is installed,
so nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleetlimit.testing.assertions import (
        assert_limited,
        assert_limited_async,
        spent_units,
    )
    from fleetlimit.testing.clock import ManualClock
    from fleetlimit.testing.factory import FleetlimitFactory
    from fleetlimit.testing.switch import unlimited

__all__ = [
    "FleetlimitFactory",
    "ManualClock",
    "assert_limited",
    "assert_limited_async",
    "spent_units",
    "unlimited",
]

_MODULES = {
    "FleetlimitFactory": "fleetlimit.testing.factory",
    "ManualClock": "fleetlimit.testing.clock",
    "assert_limited": "fleetlimit.testing.assertions",
    "assert_limited_async": "fleetlimit.testing.assertions",
    "spent_units": "fleetlimit.testing.assertions",
    "unlimited": "fleetlimit.testing.switch",
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

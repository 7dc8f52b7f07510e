"""Test helpers for applications: a manual clock, and pytest fixtures over the production code.

pytest loads the fixtures of `fleetlimit.testing.plugin` in every run once the package is installed,
so nothing is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleetlimit.testing.clock import ManualClock
    from fleetlimit.testing.factory import FleetlimitFactory
    from fleetlimit.testing.switch import unlimited

__all__ = ["FleetlimitFactory", "ManualClock", "unlimited"]

_MODULES = {
    "FleetlimitFactory": "fleetlimit.testing.factory",
    "ManualClock": "fleetlimit.testing.clock",
    "unlimited": "fleetlimit.testing.switch",
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

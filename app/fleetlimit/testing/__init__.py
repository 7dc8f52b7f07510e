"""For users' own tests: a clock one moves, over the production scripts or the memory store.

With the package installed, pytest knows the fixtures of `fleetlimit.testing.plugin` by itself.
"""

from collections.abc import Callable
from pathlib import Path

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.core.policy import PolicySet
from fleetlimit.testing.clock import ManualClock

FleetlimitFactory = Callable[[str | Path | PolicySet | None], Fleetlimit]
"""What the fixture `make_fleetlimit` is: takes a policy file or a set, returns a limiter."""

__all__ = ["FleetlimitFactory", "ManualClock"]

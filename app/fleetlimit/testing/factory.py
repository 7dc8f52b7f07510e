"""Type of the fixture `make_fleetlimit`."""

from pathlib import Path
from typing import Protocol

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.core.policy import PolicySet


class FleetlimitFactory(Protocol):
    """Creates limiters on the test's clock."""

    def __call__(self, policies: str | Path | PolicySet | None = None) -> Fleetlimit:
        """Return a limiter with the policies of a file or a set, or without any."""
        ...

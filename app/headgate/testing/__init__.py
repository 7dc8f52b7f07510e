"""For users' own tests: a clock one moves, over the production scripts or the memory store.

With the package installed, pytest knows the fixtures of `headgate.testing.plugin` by itself.
"""

from collections.abc import Callable
from pathlib import Path

from headgate.core.policy import PolicySet
from headgate.server.headgate import Headgate
from headgate.testing.clock import MovedClock

MakeHeadgate = Callable[[str | Path | PolicySet | None], Headgate]
"""What the fixture `make_headgate` is: takes a policy file or a set, returns a limiter."""

__all__ = ["MakeHeadgate", "MovedClock"]

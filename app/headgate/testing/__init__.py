"""For users' own tests: a clock one moves, over the production scripts or the memory store.

With the package installed, pytest knows the fixtures of `headgate.testing.plugin` by itself.
"""

from headgate.testing.clock import MovedClock

__all__ = ["MovedClock"]

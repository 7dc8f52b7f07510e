"""Rate limiting algorithms: one pure module for each, with a Lua twin in the Redis store.

Each module has four functions over its own immutable state. `now_us` is store time.

- `bounded(quota, state, now_us)` returns the state as it must be read. After the limit was lowered
  or the store's clock went back, it is not as far ahead as it was written; the caller keeps it.
- `acquire(quota, state, now_us, units, option)` returns the bucket's status and its state after
  spending. The caller drops that state if the status denies the charge or nothing is to be spent.
  `option` is `Charge.option`.
- `adjust(quota, state, now_us, adjustment)` returns the state after a refund (negative delta) or
  an unconditional charge (positive delta).
- `expires_at_us(quota, state)` returns the store time from which the state equals no state; None
  for no state.
"""

from typing import Any, Protocol

from fleetlimit.core.algorithms import (
    concurrency,
    fixed_window,
    sliding_log,
    sliding_window,
    token_bucket,
)
from fleetlimit.core.charge import Adjustment
from fleetlimit.core.decision import BucketStatus
from fleetlimit.core.quota import Algorithm, Quota

State = Any
"""State of a bucket; each algorithm reads only its own."""


class AlgorithmModule(Protocol):
    """Functions of an algorithm's module."""

    def bounded(self, quota: Quota, state: State, now_us: int, /) -> State:
        """Return the state as it must be read, and kept."""
        ...

    def acquire(
        self, quota: Quota, state: State, now_us: int, units: int, option: str, /
    ) -> tuple[BucketStatus, State]:
        """Return the bucket's status, and its state after spending."""
        ...

    def adjust(self, quota: Quota, state: State, now_us: int, adjustment: Adjustment, /) -> State:
        """Return the state after a refund or an unconditional charge."""
        ...

    def expires_at_us(self, quota: Quota, state: State, /) -> int | None:
        """Return the store time from which the state equals no state."""
        ...


_MODULES: dict[Algorithm, AlgorithmModule] = {
    Algorithm.TOKEN_BUCKET: token_bucket,
    Algorithm.FIXED_WINDOW: fixed_window,
    Algorithm.SLIDING_WINDOW: sliding_window,
    Algorithm.SLIDING_LOG: sliding_log,
    Algorithm.CONCURRENCY: concurrency,
}


def algorithm_for(algorithm: Algorithm) -> AlgorithmModule:
    """Return the module of an algorithm."""
    return _MODULES[algorithm]

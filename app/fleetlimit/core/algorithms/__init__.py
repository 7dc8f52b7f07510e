"""How a bucket decides: one pure module for each algorithm, and a Lua twin in the Redis store.

Each module has three functions over its own immutable state:

- `take(quota, state, now_us, units, lease)` returns the verdict and the state after spending; the
  state counts only if the verdict fits and the caller commits it.
- `settle(quota, state, now_us, settlement)` returns the state after giving units back (negative) or
  spending more without asking (positive).
- `expires_us(quota, state)` returns the time from which the state says no more than no state at
  all; None for a state that already says nothing.
"""

from types import ModuleType
from typing import Any

from fleetlimit.core.algorithms import (
    concurrency,
    fixed_window,
    sliding_log,
    sliding_window,
    token_bucket,
)
from fleetlimit.core.quota import Algorithm

State = Any
"""State of a bucket; each algorithm reads only what it wrote itself."""

_MODULES: dict[Algorithm, ModuleType] = {
    Algorithm.TOKEN_BUCKET: token_bucket,
    Algorithm.FIXED_WINDOW: fixed_window,
    Algorithm.SLIDING_WINDOW: sliding_window,
    Algorithm.SLIDING_LOG: sliding_log,
    Algorithm.CONCURRENCY: concurrency,
}


def algorithm_for(algorithm: Algorithm) -> ModuleType:
    """Return the module that decides for this algorithm."""
    return _MODULES[algorithm]

"""Circuit breaker for store calls: after consecutive failures calls fail at once.

All calls of a pipeline that failed raise the same error object, which is one failure: a single late
pipeline does not open the breaker, however many calls are in it.

While it is open a probe runs in the background. No request ever waits for an unavailable store, and
the first request after the store's return uses it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar, TypeVarTuple

from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError, StoreUnavailable
from fleetlimit.limiter.events import BreakerChanged, BreakerState, Event, StoreFailed
from fleetlimit.limiter.periodic import DONE, PeriodicTask
from fleetlimit.limiter.ports import Sleep

Result = TypeVar("Result")
Args = TypeVarTuple("Args")
CIRCUIT_OPEN: Final = "breaker_open"
"""Kind of the error of a call that was not made."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Settings of the circuit breaker.

    Args:
        failures: Consecutive failures that open it.
        probe_seconds: Pause between probes while it is open.
    """

    failures: int = 3
    probe_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.failures < 1 or self.probe_seconds <= 0:
            raise ConfigError("a breaker needs at least 1 failure and a pause above 0 seconds")


class CircuitBreaker:
    """Circuit breaker.

    Args:
        settings: When it opens, and how often it probes.
        probe: Async function that raises `StoreError` while the store is unavailable.
        emit: Receives events of failures and changes of state.
        sleep: Pause between probes.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        probe: Callable[[], Awaitable[None]],
        emit: Callable[[Event], None],
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._max_failures = settings.failures
        self._probe = probe
        self._emit = emit
        self._failures = 0
        self._last_failure: StoreError | None = None
        # Number of times it opened: a call that started before an opening is recognised by it.
        self._generation = 0
        self._open = False
        self._closing = False
        self._probe_task = PeriodicTask(
            self._probe_once,
            settings.probe_seconds,
            failure_event="store.probe_failed",
            immediate=True,
            sleep=sleep,
        )

    @property
    def state(self) -> BreakerState:
        """State of the breaker."""
        return BreakerState.OPEN if self._open else BreakerState.CLOSED

    def start(self) -> None:
        """Close the breaker and count from zero, also after `aclose`."""
        self._closing = False
        self._reset_failures()
        if self._open:
            self._open = False
            self._emit(BreakerChanged(BreakerState.CLOSED))

    def _reset_failures(self) -> None:
        self._failures = 0
        self._last_failure = None

    async def call(
        self, operation: str, function: Callable[[*Args], Awaitable[Result]], *args: *Args
    ) -> Result:
        """Call the store unless the breaker is open.

        Args:
            operation: Name of the store's method, for the event of a failure.
            function: Function to call.
            args: Its arguments.

        Raises:
            StoreError: The call failed, or the breaker is open.
        """
        if self._open:
            if not self._closing:
                # No effect while the probe runs; its event loop may have been closed.
                self._probe_task.start()
            raise StoreUnavailable("the breaker is open", kind=CIRCUIT_OPEN)
        generation = self._generation
        try:
            result = await function(*args)
        except StoreError as error:
            self._emit(StoreFailed(operation, error))
            # Ignored: failures of calls that began before the breaker opened, because the store
            # may have returned since; and corrupt buckets, because other buckets are unaffected.
            if generation == self._generation and not isinstance(error, BucketCorrupt):
                self._on_failure(error)
            raise
        if self._failures:
            self._reset_failures()
        return result

    def _on_failure(self, error: StoreError) -> None:
        if error is self._last_failure:
            return
        self._last_failure = error
        self._failures += 1
        if self._failures >= self._max_failures and not self._closing:
            self._generation += 1
            self._open = True
            self._probe_task.start()
            self._emit(BreakerChanged(BreakerState.OPEN))

    async def _probe_once(self) -> object:
        try:
            await self._probe()
        except StoreError:
            return None
        self._reset_failures()
        self._open = False
        self._emit(BreakerChanged(BreakerState.CLOSED))
        return DONE

    async def aclose(self) -> None:
        """Stop probing, and do not open again."""
        self._closing = True
        await self._probe_task.stop()

"""A circuit breaker: after failures in a row, nobody asks the store until a probe succeeds.

While it is open a probe runs in the background, so no request ever waits for a store that is away,
and the first request after its return finds it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from fleetlimit.errors import BucketCorrupt, ConfigError, StoreError, StoreUnavailable
from fleetlimit.limiter.events import BreakerChanged, BreakerState, Event, StoreFailed
from fleetlimit.limiter.ports import Sleep

_log = logging.getLogger("fleetlimit")
Result = TypeVar("Result")
Given = TypeVarTuple("Given")
CIRCUIT_OPEN = "breaker_open"
"""Kind of the error of a call that was not tried."""


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """When the breaker opens, and how it closes.

    Args:
        failures: Failures in a row that open it.
        probe_seconds: Pause between probes while it is open.
    """

    failures: int = 3
    probe_seconds: float = 0.5

    def __post_init__(self) -> None:
        if self.failures < 1 or self.probe_seconds <= 0:
            raise ConfigError("a breaker needs at least 1 failure and a pause above 0 seconds")


class CircuitBreaker:
    """Calls go through it to the store.

    Args:
        settings: When it opens, and how it closes.
        probe: Raises `StoreError` while the store is away.
        emit: Hears of failures and of changes.
        sleep: How to wait between probes.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        probe: Callable[[], Awaitable[None]],
        emit: Callable[[Event], None],
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._probe = probe
        self._emit = emit
        self._sleep = sleep
        self._failures = 0
        self._generation = 0
        self._closing = False
        self._probe_task: asyncio.Task[None] | None = None

    @property
    def state(self) -> BreakerState:
        """Whether calls go to the store."""
        return BreakerState.CLOSED if self._probe_task is None else BreakerState.OPEN

    async def call(
        self, operation: str, function: Callable[[*Given], Awaitable[Result]], *given: *Given
    ) -> Result:
        """Do the work unless the breaker is open.

        Args:
            operation: The verb of the store's port, for those who hear of a failure.
            function: What to do.
            given: What it is given.

        Raises:
            StoreError: The work failed, or was not tried because the breaker is open.
        """
        if self._probe_task is not None:
            raise StoreUnavailable("the breaker is open", kind=CIRCUIT_OPEN)
        openings = self._generation
        try:
            result = await function(*given)
        except StoreError as error:
            self._emit(StoreFailed(operation, error))
            # A call that began before the breaker opened says nothing of the store that came back,
            # and a single bad bucket says nothing about the others.
            if openings == self._generation and not isinstance(error, BucketCorrupt):
                self._on_failure()
            raise
        self._failures = 0
        return result

    def _on_failure(self) -> None:
        self._failures += 1
        if self._failures >= self._settings.failures and not self._closing:
            self._generation += 1
            self._probe_task = asyncio.get_running_loop().create_task(self._probe_until_available())
            self._emit(BreakerChanged(BreakerState.OPEN))

    async def _probe_until_available(self) -> None:
        while True:
            try:
                await self._probe()
            except Exception as error:  # noqa: BLE001 - whatever it is, the store is not back
                if not isinstance(error, StoreError):
                    _log.exception("store.probe_failed")
                await self._sleep(self._settings.probe_seconds)
            else:
                break
        self._failures = 0
        self._probe_task = None
        self._emit(BreakerChanged(BreakerState.CLOSED))

    async def aclose(self) -> None:
        """Stop probing, and never begin again."""
        self._closing = True
        if self._probe_task is not None:
            self._probe_task.cancel()
            await asyncio.wait({self._probe_task})

"""Checks by hand from code that is not async: scripts, Celery tasks and endpoints with `def`."""

import asyncio
import atexit
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Self, TypeVar
from weakref import WeakMethod

from fleetlimit.core.decision import Decision
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.policy_costs import CheckCost
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.manual_checks import DEFAULT_WAIT_S, ManualChecks, PolicyRef, Timeout

Result = TypeVar("Result")


_BLOCKS: Final = (
    "this call would block the event loop: in async code write `async with` and `await "
    "limits.check(...)` without .sync(), and `async def` in place of `def`"
)
Begin = Callable[[], Coroutine[Any, Any, None]]
RunningLoop = Callable[[], asyncio.AbstractEventLoop | None]
"""Returns the event loop that a limiter runs in; None while it runs in none.

Raises `ConfigError` in a process that was forked after the start.
"""


class LoopThread:
    """Event loop in another thread, which runs the checks of code that is not async.

    If the limiter runs, as that of an app does, its event loop is used. Otherwise the first check
    starts the limiter in a thread of its own, which ends with the process.

    Args:
        running_loop: Returns the event loop of the limiter.
        start: Starts the limiter; None for a limiter that an app starts.
        aclose: Closes a limiter that `start` has started.
    """

    def __init__(
        self, running_loop: RunningLoop, start: Begin | None = None, aclose: Begin | None = None
    ) -> None:
        self._running_loop = running_loop
        self._start = start
        self._aclose = aclose
        self._lock = threading.Lock()
        self._own: tuple[asyncio.AbstractEventLoop, threading.Thread, int] | None = None

    def run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine in the event loop, and return its result.

        Args:
            make: Returns the coroutine.

        Raises:
            ConfigError: This thread runs an event loop, which the call would block; or there is no
                event loop to run the coroutine in.
        """
        if _runs_event_loop():
            raise ConfigError(_BLOCKS)
        loop = self._loop()
        future = asyncio.run_coroutine_threadsafe(make(), loop)
        try:
            return future.result()
        except BaseException:
            # As when Ctrl-C interrupts the wait: the check must not spend units later.
            future.cancel()
            raise

    def open(self) -> None:
        """Start the limiter if it does not run."""
        if _runs_event_loop():
            raise ConfigError(_BLOCKS)
        self._loop()

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._own is not None and self._own[2] == os.getpid():
            return self._own[0]
        # In a forked process this raises: the lock may be held there for ever.
        running = self._running_loop()
        if running is not None:
            return running
        with self._lock:
            if self._own is None:
                self._own = self._begin()
            return self._own[0]

    def _begin(self) -> tuple[asyncio.AbstractEventLoop, threading.Thread, int]:
        if self._start is None:
            raise ConfigError("the limiter does not run: use .sync() while its app runs")
        loop = asyncio.new_event_loop()
        # A daemon: a script that ends without `close` must not wait for it.
        thread = threading.Thread(target=loop.run_forever, name="fleetlimit-sync", daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), loop).result()
        except BaseException:
            _end(loop, thread)
            raise
        close = WeakMethod(self.close)
        atexit.register(lambda: (found := close()) and found())
        return loop, thread, os.getpid()

    def close(self) -> None:
        """Close a limiter that this object has started. A later check starts it again."""
        own = self._own
        if own is None or self._aclose is None or own[2] != os.getpid():
            return
        with self._lock:
            self._own = None
            loop, thread, _ = own
            try:
                asyncio.run_coroutine_threadsafe(self._aclose(), loop).result()
            finally:
                _end(loop, thread)


def _runs_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


class SyncReservation:
    """Reservation whose corrections block until they are made.

    As a context manager it releases concurrency units at the end.

    Args:
        reservation: The reservation.
        thread: Event loop that it belongs to.
    """

    def __init__(self, reservation: Reservation, thread: LoopThread) -> None:
        self._reservation = reservation
        self._thread = thread

    @property
    def decision(self) -> Decision:
        """The decision, with the status of each bucket after the last correction."""
        return self._reservation.decision

    def commit(self, actual: Any) -> None:
        """Correct the cost to the actual one; see `Reservation.commit`."""
        self._thread.run(lambda: self._reservation.commit(actual))

    def refund(self) -> None:
        """Refund the whole cost, and release concurrency units."""
        self._thread.run(self._reservation.refund)

    def release(self) -> None:
        """Release concurrency units; the cost stays spent."""
        self._thread.run(self._reservation.release)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class SyncLimiter:
    """Checks by hand that block until they are decided; made by `limits.sync()`.

    As a context manager it starts the limiter, and closes it at the end. Without, the first check
    starts it. Arguments and errors of each method are those of `ManualLimiter`.

    Args:
        limits: The limiter.
        thread: Event loop that it runs in.
    """

    def __init__(self, limits: ManualChecks, thread: LoopThread) -> None:
        self._limits = limits
        self._thread = thread

    def check(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
    ) -> Decision:
        """Spend a cost from every limit of the policies, or from none and raise."""
        return self._thread.run(
            lambda: self._limits.check(
                *policies, principal=principal, tier=tier, key=key, subject=subject, cost=cost
            )
        )

    def peek(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
    ) -> Decision:
        """Return what `check` would decide now, without spending, and without raising a denial."""
        return self._thread.run(
            lambda: self._limits.peek(
                *policies, principal=principal, tier=tier, key=key, subject=subject, cost=cost
            )
        )

    def reserve(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
    ) -> SyncReservation:
        """Spend an estimated cost, to be corrected when the actual cost is known, or raise.

        With a `concurrency` limit write `with limits.reserve(...)`, which releases its units.
        """

        async def reserve() -> Reservation:
            return await self._limits.reserve(
                *policies, principal=principal, tier=tier, key=key, subject=subject, cost=cost
            )

        return SyncReservation(self._thread.run(reserve), self._thread)

    def acquire(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
        timeout: Timeout = DEFAULT_WAIT_S,
    ) -> SyncReservation:
        """Wait until the cost can be spent from every limit of the policies, and spend it."""

        async def acquire() -> Reservation:
            return await self._limits.acquire(
                *policies,
                principal=principal,
                tier=tier,
                key=key,
                subject=subject,
                cost=cost,
                timeout=timeout,
            )

        return SyncReservation(self._thread.run(acquire), self._thread)

    def reset(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
    ) -> int:
        """Delete a caller's buckets, and return how many existed."""
        return self._thread.run(
            lambda: self._limits.reset(
                *policies, principal=principal, tier=tier, key=key, subject=subject
            )
        )

    def close(self) -> None:
        """Close the limiter that `.sync()` has started; the limiter of an app runs on."""
        self._thread.close()

    def run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine in the event loop of the limiter; see `LoopThread.run`."""
        return self._thread.run(make)

    def open(self) -> None:
        """Start the limiter, as the first check does; without effect while it runs."""
        self._thread.open()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

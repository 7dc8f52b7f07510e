"""Limits of calls to other services: own policies, and the waits that the services state."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Principal
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.policy_costs import CheckCost
from fleetlimit.limiter.ports import Clock, Sleep, SleepingClock
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.outgoing.retry_fields import stated_wait_s
from fleetlimit.web.exceptions import RateLimitExceeded
from fleetlimit.web.manual_checks import PolicyRef, Timeout, to_timeout_us
from fleetlimit.web.manual_limiter import ManualLimiter

MAX_HOSTS: Final = 1_024
"""Hosts whose stated waits are kept; the oldest is dropped first."""
DEFAULT_MAX_PAUSE_S: Final = 3_600.0
"""Longest wait that an answer can impose, in seconds: a wrong one must not stop calls for ever."""
Result = TypeVar("Result")
CallerOfRequest = str | Principal | Callable[[Any], str | Principal] | None
"""The caller of a policy with the key `principal`, or a function of the request."""
CostOfRequest = CheckCost | Callable[[Any], CheckCost]
"""The cost of a request, or a function of it."""


class CallNotSent(Exception):
    """A call that would have to wait longer than it may.

    Args:
        message: The reason.
        retry_after: Seconds to wait.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutgoingLimits:
    """Limits of the calls of one client.

    Args:
        limits: Limiter of the policies.
        policies: Policies that each call spends from.
        principal: Caller of the policies; the host of the request by default.
        cost: Cost of a call.
        timeout: Seconds that a call may wait; None for any time.
        max_pause: Longest wait in seconds that an answer can impose.
        clock: Monotonic clock, for tests.

    Raises:
        ConfigError: An argument is invalid.
    """

    def __init__(
        self,
        limits: ManualLimiter,
        policies: Sequence[PolicyRef],
        *,
        principal: CallerOfRequest,
        cost: CostOfRequest,
        timeout: Timeout,
        max_pause: float | timedelta,
        clock: Clock | None,
    ) -> None:
        if not isinstance(limits, ManualLimiter):
            raise ConfigError(f"limits={limits!r} is no limiter: write limits=Fleetlimit(...)")
        self._limits = limits
        self._policies = policies
        self._principal = principal
        self._cost = cost
        self._timeout_us = to_timeout_us(timeout)
        self._max_pause_us = to_timeout_us(max_pause) or 0
        self._clock = clock or MonotonicClock()
        self._sleep: Sleep = (
            self._clock.sleep if isinstance(self._clock, SleepingClock) else asyncio.sleep
        )
        self._paused_until_us: BoundedCache[str, int] = BoundedCache(MAX_HOSTS)

    def run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine for a client that is not async."""
        return self._limits.sync().run(make)

    async def before(self, host: str, request: Any) -> Reservation:
        """Wait until a call may be sent, and spend its cost.

        Args:
            host: Host of the request.
            request: The request, for the functions that were given.

        Raises:
            CallNotSent: The wait would be longer than the time limit.
            ConfigError: A policy does not exist, or the limiter does not run.
        """
        principal = self._principal(request) if callable(self._principal) else self._principal
        cost = self._cost(request) if callable(self._cost) else self._cost
        started_at_us = self._clock.monotonic_us()
        while True:
            await self._wait_for_host(host, started_at_us)
            try:
                reservation = await self._limits.acquire(
                    *self._policies,
                    principal=principal if principal is not None else host,
                    cost=cost,
                    timeout=self._left_s(started_at_us),
                )
            except RateLimitExceeded as error:
                retry_after = error.decision.retry_after if error.decision else 0.0
                raise CallNotSent(f"{host}: {error.detail}", retry_after) from error
            if not self._pause_us(host):
                return reservation
            # Another call has received a time to wait meanwhile.
            await reservation.refund()

    async def _wait_for_host(self, host: str, started_at_us: int) -> None:
        while pause_us := self._pause_us(host):
            left_s = self._left_s(started_at_us)
            if left_s is not None and pause_us > left_s * SECOND_US:
                raise CallNotSent(
                    f"{host} accepts no call for {pause_us / SECOND_US:.3g} s", pause_us / SECOND_US
                )
            await self._sleep(pause_us / SECOND_US)

    def _left_s(self, started_at_us: int) -> float | None:
        """Return the seconds that a call may still wait; None for any time."""
        if self._timeout_us is None:
            return None
        waited_us = self._clock.monotonic_us() - started_at_us
        return max(0, self._timeout_us - waited_us) / SECOND_US

    def _pause_us(self, host: str) -> int:
        until_us = self._paused_until_us.get(host)
        return 0 if until_us is None else max(0, until_us - self._clock.monotonic_us())

    def after(self, host: str, status: int, fields: Mapping[str, str]) -> None:
        """Let further calls to a host wait as long as an answer of it states.

        Args:
            host: Host of the request.
            status: Status of the answer.
            fields: Header fields of the answer by lower-case name.
        """
        wait_s = stated_wait_s(status, fields, time.time())
        if wait_s:
            pause_us = min(round(wait_s * SECOND_US), self._max_pause_us)
            until_us = self._clock.monotonic_us() + pause_us
            self._paused_until_us.put(host, max(until_us, self._paused_until_us.get(host) or 0))

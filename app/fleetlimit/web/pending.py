"""Reservation that is awaited, or entered as an async context manager."""

import contextlib
import logging
from collections.abc import Coroutine, Generator
from typing import Any
from weakref import finalize

from fleetlimit.core.charge import Charge
from fleetlimit.limiter.reservation import Reservation

_log = logging.getLogger("fleetlimit")


class PendingReservation:
    """A check that `reserve` or `acquire` begins when it is awaited or entered.

    `reservation = await limits.reserve(...)` returns the `Reservation`. `async with
    limits.reserve(...) as reservation:` also releases its concurrency units at the end.

    Args:
        check: The coroutine of the check. Python warns of one that is never awaited.
    """

    def __init__(self, check: Coroutine[Any, Any, Reservation]) -> None:
        self._check = check
        self._exit_stack = contextlib.AsyncExitStack()

    def __await__(self) -> Generator[Any, Any, Reservation]:
        reservation = yield from self._check.__await__()
        if reservation.leases:
            # The limit would not hold, and nothing else would report it.
            policies = ", ".join(reservation.policies_with_leases)
            finalize(reservation, _warn_of_dropped, reservation.leases, policies).atexit = False
        return reservation

    async def __aenter__(self) -> Reservation:
        return await self._exit_stack.enter_async_context(await self._check)

    async def __aexit__(self, *_: object) -> None:
        await self._exit_stack.aclose()


def _warn_of_dropped(leases: list[Charge], policies: str) -> None:
    if leases:
        _log.warning(
            "leases.dropped policies=%s; the concurrency units were released because no code "
            "refers to their reservation: write `async with limits.reserve(...)`",
            policies,
        )

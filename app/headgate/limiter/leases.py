"""Leases of requests in flight, renewed for as long as their requests last."""

import asyncio
from collections.abc import Awaitable, Callable

from headgate.core.quota import SECOND_US
from headgate.limiter.reservation import Reservation, Settle

Sleep = Callable[[float], Awaitable[None]]


class LeaseKeeper:
    """Renews what is held; works only while something is.

    Args:
        settle: How leases are renewed.
        sleep: How to wait between renewals.
    """

    def __init__(self, settle: Settle, *, sleep: Sleep = asyncio.sleep) -> None:
        self._settle = settle
        self._sleep = sleep
        self._held: set[Reservation] = set()
        self._renewing: asyncio.Task[None] | None = None

    def hold(self, reservation: Reservation) -> None:
        """Keep the leases of a reservation until they are given back."""
        self._held.add(reservation)
        if self._renewing is None:
            self._renewing = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        # Three renewals fall into the life of the shortest lease: two may be lost.
        while self._prune():
            shortest_us = min(each.quota.period_us for held in self._held for each in held.leases)
            await self._sleep(shortest_us / 3 / SECOND_US)
            if self._prune():
                await self._settle([one for held in self._held for one in held.renewals()])
        self._renewing = None

    def _prune(self) -> bool:
        self._held = {held for held in self._held if held.leases}
        return bool(self._held)

    async def aclose(self) -> None:
        """Stop renewing."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})
            self._renewing = None

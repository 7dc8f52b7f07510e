"""Leases of requests in flight, renewed for as long as their requests last."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from weakref import WeakSet

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.ports import Sleep
from fleetlimit.limiter.reservation import Reservation, Settle


class LeaseKeeper:
    """Renews what is held; works only while something is.

    Args:
        settle: How leases are renewed.
        sleep: How to wait between renewals.
    """

    def __init__(self, settle: Settle, *, sleep: Sleep = asyncio.sleep) -> None:
        self._settle = settle
        self._sleep = sleep
        self._held: dict[int, WeakSet[Reservation]] = {}
        self._renewing: dict[int, asyncio.Task[None]] = {}

    def hold(self, reservation: Reservation) -> Reservation:
        """Keep the leases of a reservation, if it has any, until they are given back."""
        if not reservation.leases:
            return reservation
        # Each length of lease has a task of its own: a short one cannot wait for a long one.
        life_us = min(each.quota.period_us for each in reservation.leases)
        # What its owner has dropped can never be given back: it is not renewed, and so it ends.
        self._held.setdefault(life_us, WeakSet()).add(reservation)
        if life_us not in self._renewing:
            task = asyncio.get_running_loop().create_task(self._renew(life_us))
            self._renewing[life_us] = task
        return reservation

    async def _renew(self, life_us: int) -> None:
        held = self._held[life_us]
        while held:
            # Three renewals fall into the life of a lease: two may be lost.
            await self._sleep(life_us / 3 / SECOND_US)
            held.difference_update([each for each in held if not each.leases])
            await self._keep(held)
        del self._held[life_us], self._renewing[life_us]

    async def _keep(self, held: Iterable[Reservation]) -> None:
        renewals = [(owner, each) for owner in held for each in owner.renewals()]
        if renewals:
            await self._settle([each for _, each in renewals])
        # A lease given back meanwhile may have come back with its renewal.
        back = [replace(each, delta=-each.units) for owner, each in renewals if not owner.leases]
        if back:
            await self._settle(back)

    async def aclose(self) -> None:
        """Stop renewing."""
        for task in self._renewing.values():
            task.cancel()
        if self._renewing:
            await asyncio.wait(self._renewing.values())
        self._renewing.clear()

"""Renewal of the leases of open reservations."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Final
from weakref import WeakSet, finalize

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.periodic import DONE, PeriodicTask
from fleetlimit.limiter.ports import Sleep
from fleetlimit.limiter.reservation import Adjust, Reservation
from fleetlimit.limiter.tasks import TaskSet

RENEWAL_CHUNK: Final = 100
"""Most units that leases hold in one call of the store, which takes it about 3 ms; a lease of more
has a call of its own. One call for thousands of units would exceed the timeout, and block the
server for all replicas meanwhile."""

Renew = Callable[[Sequence[Charge]], Awaitable[object]]


def _chunks(leases: Iterable[Charge]) -> Iterator[list[Charge]]:
    """Yield the leases in lists of at most `RENEWAL_CHUNK` units, or of one lease."""
    chunk: list[Charge] = []
    units = 0
    for lease in leases:
        if chunk and units + lease.units > RENEWAL_CHUNK:
            yield chunk
            chunk, units = [], 0
        chunk.append(lease)
        units += lease.units
    if chunk:
        yield chunk


class LeaseRenewer:
    """Renews the leases of open reservations. No task runs while there are none.

    The leases of a reservation that is dropped without a release are released: a request may fail
    before the code that would have released them runs.

    Args:
        renew: Renews leases; never raises.
        adjust: Releases the leases of a dropped reservation, and a lease that was renewed after
            its release; never raises.
        held_times: Records how long leases are held.
        sleep: Pause between renewals.
    """

    def __init__(
        self,
        renew: Renew,
        adjust: Adjust,
        held_times: HeldTimes,
        *,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._renew = renew
        self._adjust = adjust
        self._held_times = held_times
        self._sleep = sleep
        self._tracked: dict[int, WeakSet[Reservation]] = {}
        self._tasks: dict[int, PeriodicTask] = {}
        self._releases = TaskSet()

    def track(self, reservation: Reservation) -> None:
        """Renew the leases of a reservation until they are released."""
        if not reservation.leases:
            return
        # One task for each lifetime: a short lease cannot wait for the renewal of a long one.
        lifetime_us = min(each.quota.period_us for each in reservation.leases)
        loop = asyncio.get_running_loop()
        on_released = self._held_times.start(reservation.policies_with_leases)
        reservation.on_released = on_released
        dropped = finalize(reservation, self._on_dropped, loop, reservation.leases, on_released)
        # At exit there is no event loop that could release; the leases expire.
        dropped.atexit = False
        self._tracked.setdefault(lifetime_us, WeakSet()).add(reservation)
        task = self._tasks.get(lifetime_us)
        if task is None:
            task = self._tasks[lifetime_us] = PeriodicTask(
                lambda: self._run(lifetime_us),
                # Three renewals in a lifetime: two may be lost.
                lifetime_us / 3 / SECOND_US,
                failure_event="lease.renewal_failed",
                sleep=self._sleep,
            )
        # No effect while it runs; its event loop may have been closed.
        task.start()

    def _on_dropped(
        self,
        loop: asyncio.AbstractEventLoop,
        leases: list[Charge],
        on_released: Callable[[], None],
    ) -> None:
        """Release what a dropped reservation still held; runs in any thread."""
        if leases and not loop.is_closed():
            loop.call_soon_threadsafe(self._release_dropped, leases, on_released)

    def _release_dropped(self, leases: list[Charge], on_released: Callable[[], None]) -> None:
        on_released()
        self._releases.spawn(self._release(Reservation.releases_of(leases)))

    async def _release(self, releases: list[Adjustment]) -> None:
        await self._adjust(releases)

    async def _run(self, lifetime_us: int) -> object:
        tracked = self._tracked[lifetime_us]
        tracked.difference_update([each for each in tracked if not each.leases])
        await self._renew_all(tracked)
        if tracked:
            return None
        del self._tracked[lifetime_us]
        self._tasks.pop(lifetime_us, None)
        return DONE

    async def _renew_all(self, reservations: Iterable[Reservation]) -> None:
        renewed = {owner: [*owner.leases] for owner in reservations if owner.leases}
        due = [lease for leases in renewed.values() for lease in leases]
        for chunk in _chunks(due):
            await self._renew(chunk)
            # A store in memory replies without a wait, and requests must not wait for all chunks.
            await asyncio.sleep(0)
        # The renewal of a lease that was released while it was in flight must be undone.
        released = [
            each for owner, leases in renewed.items() for each in leases if each not in owner.leases
        ]
        if released:
            await self._adjust(Reservation.releases_of(released))

    async def aclose(self) -> None:
        """Stop renewing, and wait for releases in the background."""
        tasks, self._tasks = self._tasks, {}
        await asyncio.gather(*(task.stop() for task in tasks.values()))
        await self._releases.wait()

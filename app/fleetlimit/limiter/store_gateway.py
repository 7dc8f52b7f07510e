"""The till: takes charges from the shared store, corrects them, and leaves no lease behind."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from fleetlimit.core.charge import Charge, Settlement
from fleetlimit.core.decision import Decision
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import Sample
from fleetlimit.limiter.circuit_breaker import NOT_ASKED, Breaker
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import Clock, Store, Taken
from fleetlimit.limiter.prefetch import Slices
from fleetlimit.limiter.reservation import LeaseKeeper, Reservation


class Till:
    """Spends from the shared store.

    Args:
        store: The shared store.
        breaker: The way to it.
        denials: What is known to refuse; a bucket that gets something back is struck from it.
        sample: Is told of what was given back.
        clock: The process's own time.
    """

    def __init__(
        self, store: Store, breaker: Breaker, denials: DenialCache, sample: Sample, clock: Clock
    ) -> None:
        self._store = store
        self._breaker = breaker
        self._denials = denials
        self._sample = sample
        self._leases = LeaseKeeper(self.settle)
        self._orphans: set[asyncio.Task[None]] = set()
        self.slices = Slices(self._take, self.settle, sample, clock)

    def take(self, plan: Plan) -> Coroutine[Any, Any, Taken]:
        """Spend all charges of a plan, from the store or from a slice of it.

        Raises:
            StoreError: The store is away.
        """
        if plan.slicing is not None:
            return self.slices.take(plan, plan.slicing)
        if plan.holds_leases:
            return self._take_leases(plan, self._take(plan.charges))
        return self._take(plan.charges)

    def _take(self, charges: Sequence[Charge]) -> Coroutine[Any, Any, Taken]:
        return self._breaker.call("take", self._store.take, charges)

    async def _take_leases(self, plan: Plan, taking: Coroutine[Any, Any, Taken]) -> Taken:
        # A client that goes away while the store answers must not leave a lease behind.
        task = asyncio.ensure_future(taking)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._in_background(self._release_orphan(task, plan))
            raise

    async def _release_orphan(self, task: asyncio.Future[Taken], plan: Plan) -> None:
        with contextlib.suppress(StoreError):
            taken = await task
            if taken.spent:
                held = [each for each in plan.charges if each.lease]
                await self._settle([each.correction(-each.units, taken.now_us) for each in held])

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)
        return task

    def hold(self, plan: Plan, decision: Decision, taken_us: int) -> Reservation:
        """Return what the caller may correct later, and keep its leases alive until then."""
        held = Reservation(decision, plan, taken_us, self.settle)
        return self._leases.hold(held) if plan.holds_leases else held

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Correct charges; where the store is away they expire by themselves."""
        # A client that goes away while the store answers must not keep what it gives back.
        await asyncio.shield(self._in_background(self._settle(settlements)))

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        try:
            times_us = await self._breaker.call("settle", self._store.settle, settlements)
        except StoreError as error:
            if error.kind != NOT_ASKED:
                # It may have been done all the same.
                self._sample.interrupt([each.key for each in settlements if each.delta < 0])
        else:
            self._sample.corrected(settlements, times_us)
        # Not before: what is refused until the store has settled would be remembered.
        self._denials.forget([each.key for each in settlements])

    async def aclose(self) -> None:
        """Stop renewing leases, give back slices, and finish what nobody waits for."""
        await self._leases.aclose()
        await self.slices.aclose()
        if self._orphans:
            await asyncio.wait(self._orphans)

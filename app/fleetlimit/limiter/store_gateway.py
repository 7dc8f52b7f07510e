"""The till: takes charges from the shared store, corrects them, and leaves no lease behind."""

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import Decision
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.circuit_breaker import CIRCUIT_OPEN, CircuitBreaker
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AcquireResult, Clock, Store
from fleetlimit.limiter.prefetch import Prefetcher
from fleetlimit.limiter.reservation import LeaseRenewer, Reservation


class StoreGateway:
    """Spends from the shared store.

    Args:
        store: The shared store.
        breaker: The way to it.
        denial_cache: What is known to refuse; a bucket that gets something back is struck from it.
        sample: Is told of what was given back.
        clock: The process's own time.
    """

    def __init__(
        self,
        store: Store,
        breaker: CircuitBreaker,
        denial_cache: DenialCache,
        sample: UsageSample,
        clock: Clock,
    ) -> None:
        self._store = store
        self._breaker = breaker
        self._denial_cache = denial_cache
        self._sample = sample
        self._lease_renewer = LeaseRenewer(self.adjust)
        self._background_tasks: set[asyncio.Task[None]] = set()
        self.prefetcher = Prefetcher(self._acquire, self.adjust, sample, clock)

    def acquire(self, plan: Plan) -> Coroutine[Any, Any, AcquireResult]:
        """Spend all charges of a plan, from the store or from a slice of it.

        Raises:
            StoreError: The store is away.
        """
        if plan.prefetch is not None:
            return self.prefetcher.acquire(plan, plan.prefetch)
        if plan.has_leases:
            return self._acquire_leases(plan, self._acquire(plan.charges))
        return self._acquire(plan.charges)

    def _acquire(self, charges: Sequence[Charge]) -> Coroutine[Any, Any, AcquireResult]:
        return self._breaker.call("take", self._store.acquire, charges)

    async def _acquire_leases(
        self, plan: Plan, acquiring: Coroutine[Any, Any, AcquireResult]
    ) -> AcquireResult:
        # A client that goes away while the store answers must not leave a lease behind.
        task = asyncio.ensure_future(acquiring)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._spawn(self._release_abandoned(task, plan))
            raise

    async def _release_abandoned(self, task: asyncio.Future[AcquireResult], plan: Plan) -> None:
        with contextlib.suppress(StoreError):
            taken = await task
            if taken.spent:
                held = [each for each in plan.charges if each.lease]
                await self._adjust(
                    [each.adjustment(-each.units, taken.store_now_us) for each in held]
                )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background_tasks.add(task)
        task.add_done_callback(self._background_tasks.discard)
        return task

    def open_reservation(self, plan: Plan, decision: Decision, acquired_at_us: int) -> Reservation:
        """Return what the caller may correct later, and keep its leases alive until then."""
        held = Reservation(decision, plan, acquired_at_us, self.adjust)
        return self._lease_renewer.track(held) if plan.has_leases else held

    async def adjust(self, adjustments: Sequence[Adjustment]) -> None:
        """Correct charges; where the store is away they expire by themselves."""
        # A client that goes away while the store answers must not keep what it gives back.
        await asyncio.shield(self._spawn(self._adjust(adjustments)))

    async def _adjust(self, adjustments: Sequence[Adjustment]) -> None:
        try:
            times_us = await self._breaker.call("settle", self._store.adjust, adjustments)
        except StoreError as error:
            if error.kind != CIRCUIT_OPEN:
                # It may have been done all the same.
                self._sample.invalidate([each.key for each in adjustments if each.delta < 0])
        else:
            self._sample.record_refunds(adjustments, times_us)
        # Not before: what is refused until the store has settled would be remembered.
        self._denial_cache.discard([each.key for each in adjustments])

    async def aclose(self) -> None:
        """Stop renewing leases, give back slices, and finish what nobody waits for."""
        await self._lease_renewer.aclose()
        await self.prefetcher.aclose()
        if self._background_tasks:
            await asyncio.wait(self._background_tasks)

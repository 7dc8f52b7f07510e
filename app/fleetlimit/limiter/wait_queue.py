"""Checks that wait for units: first come, first served among the waiters of a process.

A denied check joins the queue of each of its buckets. Only a waiter that is the first in all of
them calls the store, at the time when its charges fit, so a bucket has at most one waiting call per
process. A waiter whose turn cannot come before its deadline is denied at once.
"""

import asyncio
from bisect import bisect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from operator import attrgetter
from typing import Final

from fleetlimit.core.charge import ENFORCED_GROUP, Charge
from fleetlimit.core.decision import BucketStatus, Decision, Source
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.core.subject import Subject
from fleetlimit.errors import ConfigError, FleetlimitError
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.plan import Plan, PolicyCost, with_exempt
from fleetlimit.limiter.ports import Clock, Sleep, SleepingClock
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.tasks import TaskSet

MAX_WAITERS: Final = 10_000
"""Largest number of waiters of a limiter. A further one is denied at once."""
_UNKNOWN_WAIT_US: Final = SECOND_US
"""Retry time of a denial for which no bucket has stated one."""
_ORDER: Final = attrgetter("order")

ResolveCosts = Callable[[], Sequence[PolicyCost]]
"""Returns the policies of a check as they are active now, each with its cost.

Raises `ConfigError` for a policy that does not exist any more.
"""
PlanFor = Callable[[Sequence[PolicyCost], Subject], Plan]
Attempt = Callable[[Sequence[PolicyCost], Subject], Awaitable[Reservation]]
Refuse = Callable[[Plan, Subject, Decision], Reservation]


@dataclass(eq=False, slots=True)
class _Waiter:
    """One check that waits.

    Args:
        order: Number of the check in the order of arrival.
        resolve_costs: Returns the check's policies and costs.
        subject: The caller and the route.
        plan: Charges of the check.
        mono_deadline_at_us: Monotonic microseconds at which the wait ends; None for no deadline.

    Attributes:
        places: Units that had joined the queue of each bucket, those of this waiter included.
        woken: Set when a queue or a bucket has changed, so that the waiter looks at them again.
        error: What ends the wait: the limiter was closed, or its policies were replaced.
    """

    order: int
    resolve_costs: ResolveCosts
    subject: Subject
    plan: Plan
    mono_deadline_at_us: int | None
    places: dict[str, int] = field(default_factory=dict)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    error: FleetlimitError | None = None


@dataclass(eq=False, slots=True)
class _Queue:
    """Waiters of one bucket in the order of arrival, and the last known status of the bucket.

    Attributes:
        joined_units: Units of all waiters that have joined.
        left_units: Units of all waiters that have left.
        unjudged: Waiters that joined while no status was known to compare their deadline with.
        status: The last status; None if it is not known, or may have changed for the better.
        mono_status_at_us: Monotonic microseconds at which the status arrived.
    """

    waiters: list[_Waiter] = field(default_factory=list)
    joined_units: int = 0
    left_units: int = 0
    unjudged: list[_Waiter] = field(default_factory=list)
    status: BucketStatus | None = None
    mono_status_at_us: int = 0


class WaitQueues:
    """Waiting checks of a limiter, by bucket.

    Args:
        clock: Clock of this process; a `SleepingClock` also makes the pauses.
        bucket_events: Reports buckets that may have units again, and replaced policies.
        plan_for: Returns the charges of a check.
        attempt: Decides a check, and emits an admission but no denial.
        refuse: Emits a denial after attempts, and returns its reservation.
        max_waiters: Bound of the waiters.
    """

    def __init__(
        self,
        clock: Clock,
        bucket_events: BucketEvents,
        *,
        plan_for: PlanFor,
        attempt: Attempt,
        refuse: Refuse,
        max_waiters: int = MAX_WAITERS,
    ) -> None:
        self._clock = clock
        self._sleep: Sleep = clock.sleep if isinstance(clock, SleepingClock) else asyncio.sleep
        self._plan_for = plan_for
        self._attempt = attempt
        self._emit_refusal = refuse
        self._max_waiters = max_waiters
        self._queues: dict[str, _Queue] = {}
        self._waiters: set[_Waiter] = set()
        self._orders = count()
        # Number of events that may have returned units.
        self._changes = 0
        self._undoing = TaskSet()
        bucket_events.subscribe(
            on_reset=self._on_changed,
            on_adjusted=self._on_changed,
            on_policies_replaced=self._on_policies_replaced,
        )

    def __len__(self) -> int:
        return len(self._waiters)

    async def acquire(
        self, resolve_costs: ResolveCosts, subject: Subject, timeout_us: int | None
    ) -> Reservation:
        """Decide a check, and wait while it is denied.

        Args:
            resolve_costs: Returns the check's policies and costs.
            subject: The caller and the route.
            timeout_us: Microseconds that the check may wait; None for any time.

        Returns:
            Reservation of an admission, or of a denial if the wait would end after the timeout.

        Raises:
            ConfigError: A policy does not exist, or the limiter was closed during the wait.
            CostError: No bucket can ever hold the cost.
        """
        mono_now_us = self._clock.monotonic_us()
        deadline_at_us = None if timeout_us is None else mono_now_us + timeout_us
        costs = resolve_costs()
        waiter = _Waiter(
            next(self._orders),
            resolve_costs,
            subject,
            self._plan_for(costs, subject),
            deadline_at_us,
        )
        denial: Decision | None = None
        if not any(key in self._queues for key in _units_by_key(waiter.plan)):
            # No waiter to pass: concurrent checks need not wait for each other's replies.
            changes = self._changes
            reservation = await self._decide(waiter, costs)
            if reservation.decision.allowed:
                return reservation
            if changes == self._changes:
                denial = reservation.decision
        if len(self._waiters) >= self._max_waiters:
            return self._refuse(waiter, denial, 0)
        self._join(waiter)
        try:
            return await self._wait(waiter, denial)
        finally:
            self._leave(waiter)

    async def _wait(self, waiter: _Waiter, denial: Decision | None) -> Reservation:
        """Wait in the queues until the check is admitted, or cannot be before its deadline.

        Args:
            waiter: The check.
            denial: The denial of a first attempt that was just made.
        """
        wait_us = 0 if denial is None else self._learn(waiter.plan, denial)
        while waiter.error is None:
            waiter.woken.clear()
            is_first = self._is_first(waiter)
            wait_us = max(wait_us, self._wait_us(waiter))
            if is_first and not wait_us:
                reservation = await self._decide(waiter, waiter.resolve_costs())
                denial = reservation.decision
                if denial.allowed:
                    self._learn(waiter.plan, denial)
                    return reservation
                if waiter.woken.is_set():
                    # Units were returned, or the policies replaced, while the store decided.
                    continue
                wait_us = self._learn(waiter.plan, denial)
            mono_now_us = self._clock.monotonic_us()
            pause_us: int | None = wait_us if is_first else None
            if (deadline_at_us := waiter.mono_deadline_at_us) is not None:
                if mono_now_us + (wait_us if is_first else max(wait_us, 1)) > deadline_at_us:
                    return self._refuse(waiter, denial, wait_us)
                if not is_first:
                    pause_us = deadline_at_us - mono_now_us
            await self._pause(waiter, pause_us)
            denial, wait_us = None, 0
        raise waiter.error

    async def _decide(self, waiter: _Waiter, costs: Sequence[PolicyCost]) -> Reservation:
        """Decide a check. If it is cancelled meanwhile, the units that it acquired are refunded."""
        # A task of its own: a cancelled store call may have spent units without a reservation.
        attempt = asyncio.ensure_future(self._attempt(costs, waiter.subject))
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._undoing.spawn(_undo(attempt))
            raise

    async def _pause(self, waiter: _Waiter, duration_us: int | None) -> None:
        """Pause until the waiter is woken, for at most a duration."""
        if duration_us is None:
            await waiter.woken.wait()
            return
        waking = asyncio.ensure_future(waiter.woken.wait())
        sleeping = asyncio.ensure_future(self._sleep(duration_us / SECOND_US))
        try:
            await asyncio.wait((waking, sleeping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            sleeping.cancel()

    def _join(self, waiter: _Waiter) -> None:
        self._waiters.add(waiter)
        for key, units in _units_by_key(waiter.plan).items():
            queue = self._queues.setdefault(key, _Queue())
            # A check that arrived earlier, and whose first attempt took longer, goes in front.
            index = bisect(queue.waiters, waiter.order, key=_ORDER)
            queue.joined_units += units
            waiter.places[key] = queue.joined_units
            if index < len(queue.waiters):
                following = queue.waiters[index]
                waiter.places[key] = (
                    following.places[key] - _units_by_key(following.plan)[key] + units
                )
            queue.waiters.insert(index, waiter)
            if queue.status is None:
                queue.unjudged.append(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        self._waiters.discard(waiter)
        for key in waiter.places:
            queue = self._queues[key]
            was_first = queue.waiters[0] is waiter
            queue.waiters.remove(waiter)
            queue.left_units += _units_by_key(waiter.plan)[key]
            if not queue.waiters:
                del self._queues[key]
            elif was_first:
                queue.waiters[0].woken.set()
        waiter.places.clear()

    def _is_first(self, waiter: _Waiter) -> bool:
        return all(self._queues[key].waiters[0] is waiter for key in waiter.places)

    def _learn(self, plan: Plan, decision: Decision) -> int:
        """Record the bucket statuses of a decision, and return the wait in microseconds."""
        mono_now_us = self._clock.monotonic_us()
        results = {each.policy: each for each in decision.results}
        for policy_plan in plan.policy_plans:
            result = results.get(policy_plan.policy.name)
            charges = plan.charges_of(policy_plan)
            # A policy that is in shadow mode has no status while the store is unavailable.
            for charge, status in zip(charges, result.statuses if result else (), strict=False):
                queue = self._queues.get(charge.key)
                if queue is not None and status is not None:
                    queue.status, queue.mono_status_at_us = status, mono_now_us
                    for each in queue.unjudged:
                        each.woken.set()
                    queue.unjudged.clear()
        return 0 if decision.allowed else decision.retry_after_us or _UNKNOWN_WAIT_US

    def _wait_us(self, waiter: _Waiter) -> int:
        """Return the least wait until the charges fit, after those ahead, in microseconds."""
        return max(map(partial(self._charge_wait_us, waiter), waiter.plan.charges), default=0)

    def _charge_wait_us(self, waiter: _Waiter, charge: Charge) -> int:
        place = waiter.places.get(charge.key)
        if place is None or (status := (queue := self._queues[charge.key]).status) is None:
            # A charge of a policy in shadow mode, or a bucket of which nothing is known.
            return 0
        missing = max(charge.units, place - queue.left_units) - status.remaining
        if missing <= 0:
            return 0
        wait_us = status.next_unit_after_us
        if charge.quota.algorithm is Algorithm.TOKEN_BUCKET:
            wait_us += (missing - 1) * charge.quota.period_us // charge.quota.limit
        return max(0, wait_us - (self._clock.monotonic_us() - queue.mono_status_at_us))

    def _refuse(self, waiter: _Waiter, denial: Decision | None, wait_us: int) -> Reservation:
        """Emit the denial of a waiter, and return its reservation.

        Args:
            waiter: The check.
            denial: The denial of an attempt that was just made.
            wait_us: Least wait from now on, in microseconds; 0 if it is not known.
        """
        plan = waiter.plan
        if denial is None:
            wait_us = wait_us or _UNKNOWN_WAIT_US
            statuses = [
                BucketStatus(False, 0, wait_us, wait_us, wait_us)  # noqa: FBT003 - as a denial has it
                if each.group == ENFORCED_GROUP
                else None
                for each in plan.charges
            ]
            denial = plan.decision(statuses, source=Source.CACHE, spent=False)
            denial = with_exempt(denial, plan)
        elif wait_us > denial.retry_after_us:
            denial = replace(denial, retry_after_us=wait_us)
        return self._emit_refusal(plan, waiter.subject, denial)

    def _on_changed(self, keys: Sequence[str]) -> None:
        self._changes += 1
        for key in keys:
            queue = self._queues.get(key)
            if queue is not None:
                queue.status = None
                queue.waiters[0].woken.set()

    def _on_policies_replaced(self) -> None:
        """Move all waiters, in their order, to the buckets of the policies that are active now."""
        waiters = sorted(self._waiters, key=_ORDER)
        for each in waiters:
            self._leave(each)
        for each in waiters:
            try:
                each.plan = self._plan_for(each.resolve_costs(), each.subject)
            except FleetlimitError as error:
                each.error = error
            self._join(each)
            each.woken.set()

    async def aclose(self) -> None:
        """End all waits with an error, and wait for the refunds of cancelled checks."""
        for each in self._waiters:
            each.error = ConfigError("the limiter was closed while a check waited for its units")
            each.woken.set()
        await self._undoing.wait()


def _units_by_key(plan: Plan) -> dict[str, int]:
    """Return the units that a plan requests of each bucket that can deny it."""
    return {each.key: each.units for each in plan.charges if each.group == ENFORCED_GROUP}


async def _undo(attempt: asyncio.Future[Reservation]) -> None:
    """Refund the units of an attempt whose check was cancelled."""
    await asyncio.wait({attempt})
    if not attempt.cancelled() and attempt.exception() is None:
        await attempt.result().withdraw()

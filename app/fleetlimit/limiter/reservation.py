"""Reservation: what a check has spent, to be committed, refunded or released later."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Self
from weakref import WeakSet, finalize

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import ALLOWED, Decision, correct_status
from fleetlimit.core.quota import SECOND_US, check_cost
from fleetlimit.limiter.held_time import HeldTimes
from fleetlimit.limiter.periodic import DONE, PeriodicTask
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.ports import AcquireResult, Sleep
from fleetlimit.limiter.tasks import TaskSet

RENEWAL_CHUNK: Final = 100
"""Most units that leases hold in one call of the store, which takes it about 3 ms; a lease of more
has a call of its own. One call for thousands of units would exceed the timeout, and block the
server for all replicas meanwhile."""

Adjust = Callable[[Sequence[Adjustment]], Awaitable[Sequence[int | None]]]
"""Corrects charges, and returns the store time of each; None where the server is unavailable."""
Renew = Callable[[Sequence[Charge]], Awaitable[object]]
_SpentCharge = tuple[Charge, int]
"""A charge, and the time at which its units were spent on the clock of the server of its bucket."""


class Reservation:
    """Units spent for a request, and leases held for it.

    As an async context manager it releases the leases at the end. The cost stays spent unless
    `commit` or `refund` corrects it.

    Args:
        decision: Decision on the request.
        plan: Plan that was decided.
        acquired: Reply of the store that the units were spent from; None if none were spent.
        adjust: Corrects charges. It raises `ConfigError` when it is called in another event loop;
            its awaitable never raises.
        local: Part of the policies whose server in a Cluster is unavailable, decided locally.

    Attributes:
        decision: The decision, with the status of each bucket after the last correction.
        leases: Charges of the leases that are held.
        on_corrected: Callback after a correction has changed `decision`.
    """

    __slots__ = (
        "__weakref__",  # `LeaseRenewer` holds reservations weakly
        "_acquired",
        "_adjust",
        "_local",
        "_plan",
        "_policy",
        "_uncorrected",
        "_whole",
        "decision",
        "leases",
        "on_corrected",
        "on_released",
    )

    def __init__(
        self,
        decision: Decision,
        plan: Plan,
        acquired: AcquireResult | None,
        adjust: Adjust,
        local: "Reservation | None" = None,
    ) -> None:
        self.decision = decision
        self._local = local
        # Shared with the finalizer of `LeaseRenewer`, so a release empties this list in place.
        self.leases: list[Charge] = []
        self.on_released: Callable[[], None] | None = None
        self._plan = plan
        self._acquired = acquired
        self._adjust = adjust
        # Name of the policy that this part belongs to; empty for the whole reservation.
        self._policy = ""
        # Spent charges by policy, computed when needed: few requests correct their cost.
        self._uncorrected: dict[str, list[_SpentCharge]] | None = None
        # The reservation of which this is the part of one policy.
        self._whole: Reservation | None = None
        self.on_corrected: Callable[[], object] | None = None
        if plan.has_leases:
            spent = self._spent().values()
            self.leases = [charge for pairs in spent for charge, _ in pairs if charge.lease]

    def _spent(self) -> dict[str, list[_SpentCharge]]:
        """Return the charges that are spent and not corrected yet, by policy."""
        if self._uncorrected is None:
            self._uncorrected = _spent_charges(self._plan, self.decision, self._acquired)
        return self._uncorrected

    def for_policy(self, policy: str) -> "Reservation":
        """Return the part of one policy, for a separate correction.

        The leases stay with the whole, which releases them when the request ends. `release` of the
        part releases those of its policy earlier.
        """
        local = self._local_part()
        if local is not None:
            if local._includes(policy):  # noqa: SLF001 - an object of this class
                return local.for_policy(policy)
        elif not self.leases and len(self._plan.policy_plans) == 1 and self._includes(policy):
            return self
        part = self._part()
        part._policy = policy  # noqa: SLF001 - as above
        part._local = None  # noqa: SLF001
        part._whole = self._whole or self  # noqa: SLF001
        part.leases = []
        return part

    def _part(self) -> "Reservation":
        """Return a copy. It shares the uncorrected charges, so that nothing is refunded twice."""
        self._spent()
        return copy.copy(self)

    def _local_part(self) -> "Reservation | None":
        """Return the local part, whose corrections change the decision of this whole, too.

        The local reservation itself does not refer to the whole: in a cycle, a dropped reservation
        would not release its leases at once.
        """
        if self._local is None:
            return None
        part = self._local._part()  # noqa: SLF001 - an object of this class
        part._whole = self  # noqa: SLF001 - as above
        return part

    def _includes(self, policy: str) -> bool:
        return any(each.policy.name == policy for each in self._plan.policy_plans)

    @property
    def holds_leases(self) -> bool:
        """Whether leases must be released when the request ends."""
        return bool(self.leases) or (self._local is not None and self._local.holds_leases)

    @property
    def policies_with_leases(self) -> list[str]:
        """Names of the policies with a `concurrency` limit."""
        plans = self._plan.policy_plans
        return [each.policy.name for each in plans if each.policy.has_leases]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def commit(self, actual: int) -> None:
        """Correct the cost to the actual one; the difference is refunded or spent.

        Spending more than was reserved may exceed the limit by the difference, which delays later
        requests. Only the first `commit` or `refund` has an effect, for each policy.

        Args:
            actual: Actual cost of the request, at least 0.

        Raises:
            ConfigError: This is not the event loop of the limiter; nothing was corrected.
            CostError: The cost is negative, or no whole number.
        """
        actual = check_cost(actual)
        uncorrected = self._spent()
        policies = (self._policy,) if self._policy else tuple(uncorrected)
        spent = [each for policy in policies for each in uncorrected.get(policy, ())]
        adjustments = [
            charge.adjustment(delta, store_acquired_at_us)
            for charge, store_acquired_at_us in spent
            if not charge.lease and (delta := actual * charge.quota.cost - charge.units)
        ]
        adjusting = self._start(adjustments, policies)
        local = self._local_part()
        if local is not None:
            # Before the wait for the store, in which the request may be cancelled.
            await local.commit(actual)
        await self._finish(adjustments, adjusting)

    async def refund(self) -> None:
        """Refund the whole cost, and release the leases."""
        await self.commit(0)

    async def withdraw(self) -> None:
        """Refund the cost of a request that is not admitted, and record no held time."""
        self.on_released = None
        await self.refund()

    async def release(self) -> None:
        """Release the leases, because the request has ended; the cost stays spent."""
        if self._policy and self._whole is not None:
            await self._whole._release_policy(self._policy)  # noqa: SLF001 - of this class
            return
        releases: list[Adjustment] = []
        releasing = self._start(releases)
        local = self._local_part()
        if local is not None:
            await local.release()
        await self._finish(releases, releasing)

    async def _release_policy(self, policy: str) -> None:
        local = self._local_part()
        if local is not None and local._includes(policy):  # noqa: SLF001 - an object of this class
            await local._release_policy(policy)  # noqa: SLF001 - as above
            return
        plans = [each for each in self._plan.policy_plans if each.policy.name == policy]
        keys = {charge.key for each in plans for charge in self._plan.charges_of(each)}
        released = [each for each in self.leases if each.key in keys]
        if not released:
            return
        releases: list[Adjustment] = []
        releasing = self._start(releases, released=released)
        await self._finish(releases, releasing)

    def _start(
        self,
        adjustments: list[Adjustment],
        corrected_policies: Sequence[str] = (),
        *,
        released: Sequence[Charge] | None = None,
    ) -> Awaitable[Sequence[int | None]] | None:
        """Add releases of leases, by default of all, and start the adjustments if there are any."""
        released = [*self.leases] if released is None else released
        adjustments += self.releases_of(released)
        # In another event loop this raises: the charges and leases remain for the right one.
        adjusting = self._adjust(adjustments) if adjustments else None
        for each in released:
            self.leases.remove(each)
        if released and not self.leases and self.on_released is not None:
            self.on_released()
        for policy in corrected_policies:
            self._spent().pop(policy, None)
        return adjusting

    async def _finish(
        self, adjustments: list[Adjustment], adjusting: Awaitable[Sequence[int | None]] | None
    ) -> None:
        if adjusting is None:
            return
        delta_by_key = {
            each.key: each.delta
            for each, store_adjusted_at_us in zip(adjustments, await adjusting, strict=True)
            if store_adjusted_at_us is not None
        }
        if delta_by_key:
            whole = self._whole or self
            whole._correct_decision(self._plan, delta_by_key)  # noqa: SLF001 - of this class
            self.decision = whole.decision

    def _correct_decision(self, plan: Plan, delta_by_key: Mapping[str, int]) -> None:
        """Replace the decision by one with the bucket statuses after a correction.

        The decision itself stays as it is, because events contain it.

        Args:
            plan: Plan whose charges were corrected, in the store or locally.
            delta_by_key: Units that were added to each corrected bucket.
        """
        results = {each.policy: each for each in self.decision.results}
        for each in plan.policy_plans:
            result, charges = results[each.policy.name], plan.charges_of(each)
            statuses = tuple(
                correct_status(status, charge.quota, delta_by_key[charge.key])
                if status is not None and charge.key in delta_by_key
                else status
                for charge, status in zip(charges, result.statuses, strict=True)
            )
            results[each.policy.name] = replace(result, statuses=statuses)
        self.decision = replace(self.decision, results=tuple(results.values()))
        if self.on_corrected is not None:
            self.on_corrected()

    @staticmethod
    def releases_of(leases: Iterable[Charge]) -> list[Adjustment]:
        """Return the adjustments that release leases.

        A lease is found by its name, so the adjustments have no time of acquisition.
        """
        return [each.adjustment(-each.units, 0) for each in leases]


def _spent_charges(
    plan: Plan, decision: Decision, acquired: AcquireResult | None
) -> dict[str, list[_SpentCharge]]:
    """Return the charges of the policies under which the request was allowed, by policy."""
    if acquired is None or not decision.spent:
        return {}
    # The results are in the order of the policies; a fallback may add results at the end.
    pairs = zip(plan.policy_plans, decision.results, strict=False)
    return {
        each.policy.name: [
            (plan.charges[index], acquired.store_acquired_at_us(index))
            for index in range(each.first, each.last)
        ]
        for each, result in pairs
        if result.outcome is ALLOWED
    }


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

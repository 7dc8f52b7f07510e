"""Reservation: what a check has spent, to be committed, refunded or released later."""

import copy
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.decision import ALLOWED, Decision, correct_status
from fleetlimit.core.quota import check_cost
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.plan import Plan
from fleetlimit.limiter.store_replies import AcquireResult

Adjust = Callable[[Sequence[Adjustment]], Awaitable[Sequence[int | None]]]
"""Corrects charges, and returns the store time of each; None where the server is unavailable."""
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

    def spent_cost(self, policy: str) -> int:
        """Return the cost that was spent under a policy, and is not corrected yet; 0 for none.

        Args:
            policy: Name of the policy.
        """
        for charge, _ in self._spent().get(policy, ()):
            return charge.units // charge.quota.cost
        local = self._local_part()
        return 0 if local is None else local.spent_cost(policy)

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

    async def commit(self, actual: int | Mapping[str, int]) -> None:
        """Correct the cost to the actual one; the difference is refunded or spent.

        Spending more than was reserved may exceed the limit by the difference, which delays later
        requests. Only the first `commit` or `refund` has an effect, for each policy.

        Args:
            actual: Actual cost of the request, at least 0; or the cost under each policy by its
                name, `{"tokens": 320}`. A policy without an entry is not corrected.

        Raises:
            ConfigError: A name is not one of the reservation's policies; or this is not the event
                loop of the limiter. Nothing was corrected.
            CostError: The cost is negative, or no whole number.
        """
        if isinstance(actual, Mapping):
            costs = {policy: check_cost(cost) for policy, cost in actual.items()}
            self._require_policies(costs)
            await self._commit(costs)
        else:
            await self._commit(check_cost(actual))

    def _require_policies(self, names: Iterable[str]) -> None:
        known = (self._policy,) if self._policy else self._plan.names
        for name in names:
            # Without names there is no policy to misspell: all limits are switched off.
            if known and name not in known:
                raise ConfigError(
                    f"the reservation has no policy {name!r}: write one of {', '.join(known)}"
                )

    async def _commit(self, actual: int | Mapping[str, int]) -> None:
        uncorrected = self._spent()
        policies = [self._policy] if self._policy else [*uncorrected]
        released: list[Charge] | None = None
        if isinstance(actual, Mapping):
            # Leases are held until the request ends, whatever it costs under other policies.
            policies, released = [each for each in policies if each in actual], []
        adjustments: list[Adjustment] = []
        for policy in policies:
            cost = actual[policy] if isinstance(actual, Mapping) else actual
            for charge, store_acquired_at_us in uncorrected.get(policy, ()):
                delta = cost * charge.quota.cost - charge.units
                if delta and not charge.lease:
                    adjustments.append(charge.adjustment(delta, store_acquired_at_us))
        adjusting = self._start(adjustments, policies, released=released)
        local = self._local_part()
        if local is not None:
            # Before the wait for the store, in which the request may be cancelled.
            await local._commit(actual)  # noqa: SLF001 - an object of this class
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
            store_now_us = self._acquired.store_now_us if self._acquired else 0
            whole._correct_decision(  # noqa: SLF001 - of this class
                self._plan, delta_by_key, store_now_us
            )
            self.decision = whole.decision

    def _correct_decision(
        self, plan: Plan, delta_by_key: Mapping[str, int], store_now_us: int
    ) -> None:
        """Replace the decision by one with the bucket statuses after a correction.

        The decision itself stays as it is, because events contain it.

        Args:
            plan: Plan whose charges were corrected, in the store or locally.
            delta_by_key: Units that were added to each corrected bucket.
            store_now_us: Store time of the statuses before it.
        """
        results = {each.policy: each for each in self.decision.results}
        for each in plan.policy_plans:
            result, charges = results[each.policy.name], plan.charges_of(each)
            statuses = tuple(
                correct_status(status, charge.quota, delta_by_key[charge.key], store_now_us)
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

"""Checks that code makes by hand: of policies by their names, and of a caller by its parts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fleetlimit.core.decision import Decision
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.active_policies import ActivePolicies
from fleetlimit.limiter.call_subject import call_subject
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.policy_costs import (
    CheckCost,
    SingleCosts,
    require_checkable,
    resolve_policy_costs,
)
from fleetlimit.limiter.reservation import Reservation


class PolicyChecks(ABC):
    """Checks under policies, each a `Policy` or the name of an active one."""

    active_policies: ActivePolicies
    single_costs: SingleCosts

    @abstractmethod
    async def admit(self, costs: Sequence[PolicyCost], subject: Subject) -> Reservation:
        """Spend from several policies together, each at its own cost."""
        ...

    @abstractmethod
    async def peek_costs(self, costs: Sequence[PolicyCost], subject: Subject) -> Decision:
        """Return what `admit` would decide now, without spending and without an event."""
        ...

    @abstractmethod
    async def reset_costs(self, costs: Sequence[PolicyCost], subject: Subject) -> int:
        """Delete a subject's buckets under the policies, and return how many existed."""
        ...

    async def check(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        key: str | None = None,
        cost: CheckCost = None,
    ) -> Decision:
        """Spend a cost from every limit of the policies, or from none.

        A policy with a `concurrency` limit needs `reserve`, which returns the leases to release.

        Args:
            policies: Policies, or names of active policies.
            subject: The caller and the route.
            principal: The caller, in place of `subject`.
            key: Value that the buckets are keyed on, such as a name in the body of a request, in
                place of the header, path parameter or function in the policy's key; or of the whole
                key of a policy without such a part.
            cost: Cost of the request, by default 1; or the cost under each policy by its name,
                `{"requests": 1, "tokens": 500}`, which may stand in place of `policies`.

        Raises:
            ConfigError: There is no policy of that name, or its cost is known only later: it has a
                `concurrency` limit, `count` or `usage`; or the names in `cost` are not those of
                `policies`; or its key has a function and no `key` is given; or the limiter runs in
                another event loop.
            CostError: The cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        costs: list[PolicyCost]
        if cost is None and len(policies) == 1 and isinstance(policies[0], str):
            costs = self.single_costs.of(policies[0])
        else:
            costs = resolve_policy_costs(self.active_policies, policies, cost)
            require_checkable(costs)
        return (await self.admit(costs, call_subject(subject, principal, key))).decision

    async def reserve(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        key: str | None = None,
        cost: CheckCost = None,
    ) -> Reservation:
        """Spend an estimated cost, to be corrected when the actual cost is known.

        Several policies are spent together or not at all, and corrected each by itself:
        `reservation = await limiter.reserve(cost={"requests": 1, "tokens": 500}, principal="ann")`,
        then `await reservation.commit({"tokens": 320})`.

        With a `concurrency` limit, write `async with await limiter.reserve(...)`, which releases
        the units at the end. Other arguments and errors are those of `check`.
        """
        return await self.admit(
            resolve_policy_costs(self.active_policies, policies, cost),
            call_subject(subject, principal, key),
        )

    async def peek(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        key: str | None = None,
        cost: CheckCost = None,
    ) -> Decision:
        """Return what `check` would decide now, without spending and without an event.

        Arguments and errors are those of `reserve`.

        Raises:
            StoreError: The store is unavailable.
        """
        # A policy whose cost an answer states is looked at with a cost of 1, too.
        costs = resolve_policy_costs(self.active_policies, policies, 1 if cost is None else cost)
        return await self.peek_costs(costs, call_subject(subject, principal, key))

    async def reset(
        self,
        *policies: str | Policy,
        subject: Subject | None = None,
        principal: str | Principal | None = None,
        key: str | None = None,
    ) -> int:
        """Delete a subject's buckets; other replicas admit it again within a second.

        Returns:
            How many buckets existed.

        Raises:
            ConfigError: There is no policy of that name, or the limiter runs in another event loop.
            KeySecretError: Replicas use another key secret, so that their buckets are not found.
            StoreError: The store is unavailable.
        """
        costs = resolve_policy_costs(self.active_policies, policies, 1)
        return await self.reset_costs(costs, call_subject(subject, principal, key))

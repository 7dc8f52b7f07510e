"""Checks by hand: in an endpoint, a background task, a job or a script.

A check raises `RateLimitExceeded` when it is denied, so that a result that no code looks at does
not admit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from fleetlimit.core.decision import Decision
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.limiter.policy_costs import CheckCost, resolve_policy_costs
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.exceptions import RequestRejected, make_exception
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.job_subject import CallerArguments, job_subject, require_complete
from fleetlimit.web.pending import PendingReservation
from fleetlimit.web.route_policies import RateLimitDependency

DEFAULT_WAIT_S: Final = 30.0
"""Seconds that `acquire` waits at most unless `timeout` states another time."""
_MAX_WAIT_S: Final = 366 * 24 * 3_600
"""Largest `timeout`, in seconds: a year, far below what overflows a timer."""
Timeout = float | timedelta | None
"""Seconds, a `timedelta`, or None for any time."""
PolicyRef = str | Policy | RateLimitDependency
"""Name of an active policy, or a policy from code, such as `RateLimit("5/second", name="chat")`."""


@dataclass(frozen=True, slots=True)
class ManualCheck:
    """A check by hand, ready to be decided.

    Args:
        http_limiter: Limiter that decides.
        policies: The policies as the check names them.
        costs: Policies, each with the cost under it.
        subject: The caller, and the other properties that keys are made from.
    """

    http_limiter: HTTPLimiter
    policies: Sequence[PolicyRef]
    costs: Sequence[PolicyCost]
    subject: Subject


class ManualChecks(ABC):
    """Limiter whose checks code makes by hand.

    The caller is named by code: `principal="alice"`. `key=` is the value of another key, and
    `subject=Subject(...)` has all parts of a key. Policies are given by name, as a `Policy`, or
    as a limit that has a name, such as `RateLimit("5/second", name="chat")`.
    """

    async def check(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
    ) -> Decision:
        """Spend a cost from every limit of the policies, or from none and raise.

        Args:
            policies: Policies, or names of active policies.
            principal: The caller, or its name.
            tier: Tier of a caller that is given by its name.
            key: Value that the buckets are keyed on, such as a name in the body of a request, in
                place of the header, path parameter or function in a policy's key; or of the whole
                key of a policy without such a part.
            subject: The caller, and other parts of the policies' keys, in place of `principal`.
            cost: Cost under every policy, by default 1 or the cost that a limit states itself; or
                the cost under each policy by its name, `{"requests": 1, "tokens": 500}`, which may
                stand in place of `policies`.

        Raises:
            RateLimitExceeded: A limit is spent; `retry_after` has the seconds to wait. Or the store
                is unavailable, and a policy denies then.
            ConfigError: There is no policy of that name, or its cost is known only later: it has a
                `concurrency` limit, `count` or `usage`; or the check does not state what a key is
                made from; or the limiter does not run, or runs in another event loop.
            CostError: The cost is negative, no whole number, or more than an enforced limit can
                ever hold.
        """
        check = await self._prepare(policies, CallerArguments(principal, tier, key, subject), cost)
        for each in check.costs:
            if each.policy.has_leases:
                raise ConfigError(
                    f"policy {each.policy.name} has a concurrency limit, whose units `check` "
                    f"cannot release: write `async with limits.reserve({each.policy.name!r})`"
                )
            if each.policy.count is not None:
                raise ConfigError(
                    f"policy {each.policy.name} counts by the status of the response, which "
                    "`check` does not see: write `reservation = await limits.reserve("
                    f"{each.policy.name!r})`, and `await reservation.refund()` if it does not count"
                )
        return (await self._admit(check)).decision

    async def peek(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
    ) -> Decision:
        """Return what `check` would decide now, without spending, and without raising a denial.

        Arguments and other errors are those of `check`.

        Raises:
            StoreError: The store is unavailable.
        """
        check = await self._prepare(policies, CallerArguments(principal, tier, key, subject), cost)
        return await check.http_limiter.limiter.peek_costs(check.costs, check.subject)

    def reserve(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
    ) -> PendingReservation:
        """Spend an estimated cost, to be corrected when the actual cost is known, or raise.

        Write `reservation = await limits.reserve(...)`, then `await reservation.commit(7)`. With a
        `concurrency` limit write `async with limits.reserve(...)`, which releases its units at the
        end. Arguments and errors are those of `check`.
        """

        async def reserve() -> Reservation:
            return await self._admit(
                await self._prepare(policies, CallerArguments(principal, tier, key, subject), cost)
            )

        return PendingReservation(reserve())

    def acquire(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
        cost: CheckCost = None,
        timeout: Timeout = DEFAULT_WAIT_S,
    ) -> PendingReservation:
        """Wait until the cost can be spent from every limit of the policies, and spend it.

        Write `await limits.acquire(...)`, or `async with limits.acquire(...)` with a `concurrency`
        limit. Waiters of one process for the same bucket are admitted in the order in which they
        came. A cancelled wait spends nothing.

        Args:
            policies: As in `check`, like the other arguments.
            principal: As above.
            tier: As above.
            key: As above.
            subject: As above.
            cost: As above.
            timeout: Seconds, or a `timedelta`, to wait at most; None for any time. A wait that
                would be longer raises at once.

        Raises:
            RateLimitExceeded: The wait would be longer than `timeout`, or too many checks wait.
            ConfigError: As in `check`; or the limiter was closed during the wait.
            CostError: As in `check`.
        """
        timeout_us = to_timeout_us(timeout)

        async def acquire() -> Reservation:
            check = await self._prepare(
                policies, CallerArguments(principal, tier, key, subject), cost
            )

            def resolve_costs() -> Sequence[PolicyCost]:
                # Under the policies that are active now, at the costs that were computed.
                return [
                    replace(each, policy=resolve_policy(check.http_limiter, policy))
                    for policy, each in zip(check.policies, check.costs, strict=True)
                ]

            limiter = check.http_limiter.limiter
            return await self._require_admitted(
                check, await limiter.acquire(resolve_costs, check.subject, timeout_us=timeout_us)
            )

        return PendingReservation(acquire())

    async def reset(
        self,
        *policies: PolicyRef,
        principal: str | Principal | None = None,
        tier: str | None = None,
        key: str | None = None,
        subject: Subject | None = None,
    ) -> int:
        """Delete a caller's buckets, and return how many existed.

        Arguments and errors are those of `check`.

        Raises:
            KeySecretError: Replicas use another key secret, so that their buckets are not found.
            StoreError: The store is unavailable.
        """
        check = await self._prepare(policies, CallerArguments(principal, tier, key, subject), None)
        return await check.http_limiter.limiter.reset(
            *(each.policy for each in check.costs), subject=check.subject
        )

    def require_uncounted(self, policies: Sequence[PolicyRef]) -> None:
        """Check that no policy counts by the status of a response, which a function does not have.

        Raises:
            ConfigError: One does, or does not exist.
        """
        http_limiter = self._running_limiter()
        for each in policies:
            policy = resolve_policy(http_limiter, each)
            if policy.count is not None:
                raise ConfigError(
                    f"policy {policy.name} counts by the status of a response, which a function "
                    "does not have: write `limits.reserve(...)` in it, and `refund()` for a call "
                    "that does not count"
                )

    @abstractmethod
    def _running_limiter(self) -> HTTPLimiter:
        """Return the limiter.

        Raises:
            ConfigError: It was not started, or was closed.
        """

    async def _prepare(
        self, policies: Sequence[PolicyRef], arguments: CallerArguments, cost: CheckCost
    ) -> ManualCheck:
        """Return the check that the arguments describe, for a caller that code names."""
        http_limiter = self._running_limiter()
        policies = require_policies(policies, cost)
        costs = [policy_cost(http_limiter, each, cost) for each in policies]
        found = job_subject(arguments)
        require_complete((each.policy for each in costs), found)
        return ManualCheck(http_limiter, policies, costs, found)

    async def _admit(self, check: ManualCheck) -> Reservation:
        reservation = await check.http_limiter.limiter.admit(check.costs, check.subject)
        return await self._require_admitted(check, reservation)

    async def _require_admitted(self, check: ManualCheck, reservation: Reservation) -> Reservation:
        if not reservation.decision.allowed:
            await reservation.release()
            raise self._rejection(check, reservation.decision)
        return reservation

    def _rejection(self, check: ManualCheck, decision: Decision) -> RequestRejected:
        """Return the exception of a denial."""
        return make_exception(check.http_limiter.rejection_response(decision), decision)


def require_policies(policies: Sequence[PolicyRef], cost: CheckCost) -> Sequence[PolicyRef]:
    """Return the policies of a check, by default those that its costs name.

    Raises:
        ConfigError: There are none, or they are not the ones that the costs name.
    """
    if isinstance(cost, Mapping):
        names = [each for each in policies if isinstance(each, str)]
        names += [each.name for each in policies if isinstance(each, Policy)]
        if policies and sorted(names) != sorted(cost):
            raise ConfigError(
                f"cost is given for {', '.join(cost)}: write check(cost={{...}}) without policies, "
                "or with the names of these"
            )
        policies = policies or [*cost]
    if not policies:
        raise ConfigError('a check without a policy limits nothing: write check("name")')
    return policies


def resolve_policy(http_limiter: HTTPLimiter, policy: PolicyRef) -> Policy:
    """Return the policy that a check names.

    Raises:
        ConfigError: There is no active policy of that name.
    """
    if isinstance(policy, str):
        return http_limiter.limiter.active_policies.require(policy)
    if isinstance(policy, RateLimitDependency):
        return policy.resolve_policy(http_limiter)
    if not isinstance(policy, Policy):
        raise ConfigError(
            f'{policy!r} is not a policy: write the name of one, or Policy("name", "5/minute")'
        )
    return policy


def policy_cost(http_limiter: HTTPLimiter, policy: PolicyRef, cost: CheckCost) -> PolicyCost:
    """Return a policy with the cost of a check under it.

    Raises:
        ConfigError: There is no active policy of that name, or its cost is not known.
        CostError: The cost is negative, or no whole number.
    """
    found = resolve_policy(http_limiter, policy)
    if isinstance(cost, Mapping):
        cost = cost[found.name]
    elif cost is None and isinstance(policy, RateLimitDependency) and policy.cost is not None:
        if not isinstance(policy.cost, int):
            raise ConfigError(f"{policy!r} computes its cost from a request: write cost=, too")
        cost = policy.cost
    return resolve_policy_costs(http_limiter.limiter.active_policies, [found], cost)[0]


def to_timeout_us(timeout: Timeout) -> int | None:
    """Return a time to wait in microseconds; None for any time.

    Raises:
        ConfigError: It is no number of seconds from 0 to a year.
    """
    if timeout is None:
        return None
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 <= seconds <= _MAX_WAIT_S
    ):
        raise ConfigError(
            f"timeout={timeout!r} is not a time to wait: write seconds from 0 to "
            f"{_MAX_WAIT_S}, a timedelta, or None for any time"
        )
    return math.ceil(seconds * SECOND_US)

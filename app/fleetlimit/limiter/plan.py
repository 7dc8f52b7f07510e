"""Plans: from policies and a subject to charges, and from bucket statuses to a decision."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.charge import ENFORCED_GROUP, Charge
from fleetlimit.core.decision import (
    ALLOWED,
    DENIED,
    BucketStatus,
    Decision,
    Outcome,
    PolicyResult,
    Source,
)
from fleetlimit.core.keys import MAX_CACHED_CHARS, KeyScheme
from fleetlimit.core.policy import ALL_PERCENT, Mode, Policy
from fleetlimit.core.prefetch import PrefetchTerms
from fleetlimit.core.quota import Algorithm, Quota, check_cost
from fleetlimit.core.subject import Subject
from fleetlimit.errors import CostError
from fleetlimit.limiter.bucket_events import BucketEvents


@dataclass(slots=True)
class PolicyCost:
    """Cost of a request under one policy. Treat it as immutable: routes share their costs."""

    policy: Policy
    cost: int


@dataclass(slots=True)
class PolicyPlan:
    """One policy's share of a plan: `charges[first:last]`, in the order of the policy's quotas.

    Args:
        policy: The policy.
        mode: Mode of the policy for this subject.
        first: Index of the policy's first charge.
        last: Index after the policy's last charge.
        quotas: The quotas that the charges belong to.
        never_fits: Whether the cost exceeds a quota of a policy in shadow mode; it has no charges.
    """

    policy: Policy
    mode: Mode
    first: int
    last: int
    quotas: tuple[Quota, ...] = ()
    never_fits: bool = False


@dataclass(slots=True)
class Plan:
    """Charges of one check. Shared between the requests of a caller: treat it as immutable.

    Args:
        policy_plans: The policies that are not disabled.
        charges: The charges of all policies.
        subject_hash: Hash of the caller, for the store, logs and traces.
        has_leases: Whether units must be released when the request ends.
        prefetch: Terms on which the charges may be served from prefetched units; None to call the
            store.
    """

    policy_plans: tuple[PolicyPlan, ...]
    charges: tuple[Charge, ...]
    subject_hash: str
    has_leases: bool = False
    prefetch: PrefetchTerms | None = None

    def charges_of(self, policy_plan: PolicyPlan) -> Sequence[Charge]:
        """Return the charges of one policy."""
        return self.charges[policy_plan.first : policy_plan.last]

    def part(self, policy_plans: Iterable[PolicyPlan]) -> "Plan":
        """Return the plan of some of the policies."""
        charges: list[Charge] = []
        parts: list[PolicyPlan] = []
        for each in policy_plans:
            first = len(charges)
            charges += self.charges_of(each)
            parts.append(replace(each, first=first, last=len(charges)))
        has_leases = any(each.lease for each in charges)
        return Plan(tuple(parts), tuple(charges), self.subject_hash, has_leases)

    def decision(
        self, statuses: Sequence[BucketStatus | None], *, source: Source, spent: bool
    ) -> Decision:
        """Return the decision that follows from bucket statuses.

        Args:
            statuses: Status of each charge; None if its bucket was not checked.
            source: Where the statuses came from.
            spent: Whether the enforced charges were spent.
        """
        results: list[PolicyResult] = []
        outcome: Outcome = ALLOWED
        for each in self.policy_plans:
            denied, own = each.never_fits, tuple(statuses[each.first : each.last])
            for status in own:
                if status is not None and not status.allowed:
                    denied = True
            result: Outcome = ALLOWED
            if denied:
                result = DENIED if each.mode is Mode.ENFORCE else Outcome.SHADOW_DENIED
                outcome = DENIED if DENIED in {outcome, result} else result
            results.append(PolicyResult(each.policy.name, each.mode, result, each.quotas, own))
        if outcome is DENIED:
            return Decision(outcome, source, tuple(results), self._longest_wait_us(statuses))
        return Decision(outcome, source, tuple(results), 0, spent)

    def _longest_wait_us(self, statuses: Sequence[BucketStatus | None]) -> int:
        """Return the longest wait: the request is admitted when every denying bucket has units."""
        return max(
            status.retry_after_us
            for charge, status in zip(self.charges, statuses, strict=True)
            if charge.group == ENFORCED_GROUP and status is not None and not status.allowed
        )


def make_plan(costs: Iterable[PolicyCost], subject: Subject, key_scheme: KeyScheme) -> Plan:
    """Resolve tiers, keys, modes and costs.

    Args:
        costs: Each policy with the cost of the request under it; of policies with the same name
            only the first counts.
        subject: The caller and the route.
        key_scheme: Names of buckets.

    Raises:
        CostError: A cost is negative, or more than an enforced limit can ever hold.
    """
    policy_plans: list[PolicyPlan] = []
    charges: list[Charge] = []
    lease, tier = "", subject.tier
    for policy_cost in costs:
        policy, cost = policy_cost.policy, check_cost(policy_cost.cost)
        if policy.mode is Mode.OFF or (policy_plans and _includes(policy_plans, policy)):
            continue
        mode = _effective_mode(policy, subject, key_scheme)
        quotas = policy.quotas_for(tier)
        first = len(charges)
        try:
            units = [quota.units_for(cost) for quota in quotas]
        except CostError:
            if mode is Mode.ENFORCE:
                raise
            policy_plans.append(PolicyPlan(policy, mode, first, first, never_fits=True))
            continue
        # Enforced charges share a group; each policy in shadow mode has a group of its own.
        group = ENFORCED_GROUP if mode is Mode.ENFORCE else len(policy_plans) + 1
        keys = key_scheme.bucket_keys(policy, subject, quotas)
        for key, quota, amount in zip(keys, quotas, units, strict=True):
            if quota.algorithm is Algorithm.CONCURRENCY:
                lease = lease or secrets.token_hex(6)
                charges.append(Charge(key, quota, amount, lease, group))
            else:
                charges.append(Charge(key, quota, amount, "", group))
        policy_plans.append(PolicyPlan(policy, mode, first, len(charges), quotas))
    return Plan(
        tuple(policy_plans),
        tuple(charges),
        key_scheme.subject_hash(subject),
        bool(lease),
        _prefetch_terms(policy_plans, charges, tier),
    )


def _prefetch_terms(
    policy_plans: Sequence[PolicyPlan], charges: Sequence[Charge], tier: str
) -> PrefetchTerms | None:
    """Return the terms of the only policy; several policies or a cost of 0 need the store."""
    if (
        len(policy_plans) > 1
        or not charges
        or charges[0].group != ENFORCED_GROUP
        or not charges[0].units
    ):
        return None
    return policy_plans[0].policy.prefetch_terms(tier)


def _includes(policy_plans: Iterable[PolicyPlan], policy: Policy) -> bool:
    return any(each.policy.name == policy.name for each in policy_plans)


def _effective_mode(policy: Policy, subject: Subject, key_scheme: KeyScheme) -> Mode:
    percent = policy.enforce_percent
    if percent < ALL_PERCENT and key_scheme.rollout_percentile(policy, subject) >= percent:
        return Mode.SHADOW
    return policy.mode


def all_bucket_keys(
    policies: Iterable[Policy], subject: Subject, key_scheme: KeyScheme
) -> list[str]:
    """Return the keys of a subject's buckets for every tier, because its tier may have changed."""
    keys = {
        key
        for policy in policies
        for quotas in policy.quota_sets()
        for key in key_scheme.bucket_keys(policy, subject, quotas)
    }
    return sorted(keys)


MAX_CACHED_PLANS: Final = 8_192
_RouteKey = tuple[str, str, str | None, bool]
"""Route, name of the first policy, tier, and whether a credential did not verify.

The tier is None for a caller without a principal."""


@dataclass(slots=True)
class _CachedPlan:
    """A plan, and the costs that it was made from."""

    costs: Sequence[PolicyCost]
    plan: Plan


class PlanCache:
    """Plans of callers on routes.

    Args:
        key_scheme: Names of buckets.
        bucket_events: Reports when the policies are replaced.
    """

    def __init__(self, key_scheme: KeyScheme, bucket_events: BucketEvents) -> None:
        self._key_scheme = key_scheme
        self._plans: BoundedCache[tuple[_RouteKey, str], _CachedPlan] = BoundedCache(
            MAX_CACHED_PLANS
        )
        # The callers of a route share one tuple. With one each, the plans of many callers would
        # use more of the CPU caches.
        self._policy_plans: BoundedCache[_RouteKey, tuple[PolicyPlan, ...]] = BoundedCache(
            MAX_CACHED_PLANS
        )
        bucket_events.subscribe(on_policies_replaced=self.clear)

    def __len__(self) -> int:
        return len(self._plans)

    def plan_for(self, costs: Sequence[PolicyCost], subject: Subject) -> Plan:
        """Return the plan of a check; arguments and errors are those of `make_plan`."""
        principal = subject.principal
        policy = costs[0].policy.name if costs else ""
        route: _RouteKey
        if principal is None:
            name = subject.client_address
            route = (subject.route, policy, None, subject.unverified)
        else:
            name, route = principal.name, (subject.route, policy, principal.tier, False)
        cached = self._plans.get((route, name))
        # The requests of a route share one list, which is compared faster than its items.
        if cached is not None and (cached.costs is costs or cached.costs == costs):
            return cached.plan
        plan = make_plan(costs, subject, self._key_scheme)
        # Clients can send long names, which must not fill the memory.
        cacheable = costs and all(each.policy.has_cacheable_plan for each in costs)
        if cacheable and len(name) <= MAX_CACHED_CHARS:
            shared = self._policy_plans.get(route)
            if shared == plan.policy_plans:
                plan.policy_plans = shared
            else:
                self._policy_plans.put(route, plan.policy_plans)
            self._plans.put((route, name), _CachedPlan(costs, plan))
        return plan

    def clear(self) -> None:
        """Drop all plans."""
        self._plans.clear()
        self._policy_plans.clear()

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
from fleetlimit.core.exemption import Exemption
from fleetlimit.core.keys import MAX_CACHED_CHARS, KeyScheme
from fleetlimit.core.policy import ALL_PERCENT, Mode, Policy
from fleetlimit.core.prefetch import PrefetchTerms
from fleetlimit.core.quota import Algorithm, Quota, check_cost
from fleetlimit.core.subject import Subject
from fleetlimit.core.usage import largest_cost
from fleetlimit.errors import CostError
from fleetlimit.limiter.bucket_events import BucketEvents


@dataclass(slots=True)
class PolicyCost:
    """Cost of a request under one policy. Treat it as immutable: routes share their costs.

    Args:
        policy: The policy.
        cost: Cost of the request.
        exempt: Whether a function of the app exempts the request from the policy.
        is_estimate: Whether the cost is an estimate, of which at most what the limits hold is
            spent: few answers of a model use the maximum that their request states.
        own_quotas: Limits of the caller in place of the policy's; None without.
    """

    policy: Policy
    cost: int
    exempt: bool = False
    is_estimate: bool = False
    own_quotas: tuple[Quota, ...] | None = None


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
        is_own: Whether the quotas are the caller's own, and not the policy's.
    """

    policy: Policy
    mode: Mode
    first: int
    last: int
    quotas: tuple[Quota, ...] = ()
    never_fits: bool = False
    is_own: bool = False


BucketsId = tuple[tuple[str, ...], tuple[Quota, ...]]
"""Keys and quotas of the buckets of a check."""


@dataclass(slots=True)
class PlannedPrefetch:
    """Buckets that are prefetched together.

    Args:
        id: The buckets.
        cost: Cost of the check; of each bucket it takes as many units as `quota.cost` times this.
        terms: Terms of prefetching.
    """

    id: BucketsId
    cost: int
    terms: PrefetchTerms


@dataclass(slots=True)
class Plan:
    """Charges of one check. Shared between the requests of a caller: treat it as immutable.

    Args:
        policy_plans: The policies that are not disabled.
        charges: The charges of all policies.
        subject_hash: Hash of the caller, for the store, logs and traces.
        has_leases: Whether units must be released when the request ends.
        prefetch: How the charges may be served from prefetched units; None to call the store.
        exempt: Results of the policies that do not limit the request, although they apply to it.
        names: Names of all policies of the check, also those that are disabled or in another part.
    """

    policy_plans: tuple[PolicyPlan, ...]
    charges: tuple[Charge, ...]
    subject_hash: str
    has_leases: bool = False
    prefetch: PlannedPrefetch | None = None
    exempt: tuple[PolicyResult, ...] = ()
    names: tuple[str, ...] = ()

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
        return Plan(tuple(parts), tuple(charges), self.subject_hash, has_leases, names=self.names)

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
            results.append(
                PolicyResult(each.policy.name, each.mode, result, each.quotas, own, each.is_own)
            )
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


def with_exempt(decision: Decision, plan: Plan) -> Decision:
    """Return a decision with the results of the policies that do not limit the request."""
    return replace(decision, results=(*decision.results, *plan.exempt))


def make_plan(
    costs: Iterable[PolicyCost],
    subject: Subject,
    key_scheme: KeyScheme,
    exemption: Exemption | None = None,
) -> Plan:
    """Resolve tiers, keys, modes and costs.

    Args:
        costs: Each policy with the cost of the request under it; of policies with the same name
            only the first counts.
        subject: The caller and the route.
        key_scheme: Names of buckets.
        exemption: Requests that no policy limits.

    Raises:
        CostError: A cost is negative, or more than an enforced limit can ever hold.
    """
    policy_plans: list[PolicyPlan] = []
    charges: list[Charge] = []
    exempt: list[PolicyResult] = []
    names: list[str] = []
    lease, tier, has_refunds = "", subject.tier, False
    for policy_cost in costs:
        policy, cost = policy_cost.policy, check_cost(policy_cost.cost)
        names.append(policy.name)
        if policy.mode is Mode.OFF or (policy_plans and _includes(policy_plans, policy)):
            continue
        if policy_cost.exempt or is_exempt(policy, subject, exemption):
            exempt.append(PolicyResult(policy.name, policy.mode, Outcome.EXEMPT))
            continue
        mode = _effective_mode(policy, subject, key_scheme)
        is_own = policy_cost.own_quotas is not None
        quotas = policy_cost.own_quotas or policy.quotas_for(tier)
        first = len(charges)
        has_refunds |= policy_cost.is_estimate or policy.count is not None
        if policy_cost.is_estimate:
            cost = min(cost, largest_cost(quotas))
        try:
            units = [quota.units_for(cost) for quota in quotas]
        except CostError:
            if mode is Mode.ENFORCE:
                raise
            policy_plans.append(
                PolicyPlan(policy, mode, first, first, never_fits=True, is_own=is_own)
            )
            continue
        # Enforced charges share a group; each policy in shadow mode has a group of its own.
        group = ENFORCED_GROUP if mode is Mode.ENFORCE else len(policy_plans) + 1
        keys = key_scheme.bucket_keys(policy, subject, quotas)
        for key, quota, amount in zip(keys, quotas, units, strict=True):
            if quota.algorithm is Algorithm.CONCURRENCY:
                lease = lease or secrets.token_hex(6)
                charges.append(Charge(key, quota, amount, lease, group))
            else:
                charges.append(Charge(key, quota, amount, "", group, is_own))
        policy_plans.append(PolicyPlan(policy, mode, first, len(charges), quotas, is_own=is_own))
    return Plan(
        tuple(policy_plans),
        tuple(charges),
        key_scheme.subject_hash(subject),
        bool(lease),
        _planned_prefetch(policy_plans, charges, tier, has_refunds=has_refunds),
        tuple(exempt),
        tuple(names),
    )


def is_exempt(policy: Policy, subject: Subject, exemption: Exemption | None = None) -> bool:
    """Return whether lists exempt a subject from a policy.

    Args:
        policy: The policy.
        subject: The caller and the route.
        exemption: Requests that no policy limits.
    """
    own = policy.exemption
    if own is not None and own.includes(subject):
        return True
    return exemption is not None and exemption.includes(subject)


def _planned_prefetch(
    policy_plans: Sequence[PolicyPlan],
    charges: Sequence[Charge],
    tier: str,
    *,
    has_refunds: bool,
) -> PlannedPrefetch | None:
    """Return how the charges are prefetched together; None if the store decides each check.

    Args:
        policy_plans: Policies of the check.
        charges: Their charges.
        tier: Tier of the caller.
        has_refunds: Whether responses decide about a part of the units. A bucket refunds few of
            them while units are spent ahead.
    """
    if not charges:
        return None
    cost = charges[0].units // charges[0].quota.cost
    if not cost or any(
        each.group != ENFORCED_GROUP
        # Prefetching was agreed for the policy's limits.
        or each.is_own
        or each.units != cost * each.quota.cost
        for each in charges
    ):
        return None
    terms: PrefetchTerms | None = None
    for each in policy_plans:
        own = each.policy.prefetch_terms(tier)
        if own is None or each.never_fits or each.policy.key != policy_plans[0].policy.key:
            return None
        terms = own if terms is None else terms.together(own)
    if terms is None or (terms.on_demand and has_refunds):
        return None
    quotas = tuple([each.quota for each in charges])
    return PlannedPrefetch((tuple([each.key for each in charges]), quotas), cost, terms)


def _includes(policy_plans: Iterable[PolicyPlan], policy: Policy) -> bool:
    return any(each.policy.name == policy.name for each in policy_plans)


def _effective_mode(policy: Policy, subject: Subject, key_scheme: KeyScheme) -> Mode:
    percent = policy.enforce_percent
    if percent < ALL_PERCENT and key_scheme.rollout_percentile(policy, subject) >= percent:
        return Mode.SHADOW
    return policy.mode


def all_bucket_keys(
    costs: Iterable[PolicyCost], subject: Subject, key_scheme: KeyScheme
) -> list[str]:
    """Return the keys of a subject's buckets for every tier, because its tier may have changed."""
    keys = {
        key
        for each in costs
        for quotas in (*each.policy.quota_sets(), each.own_quotas or ())
        for key in key_scheme.bucket_keys(each.policy, subject, quotas)
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
        self.exemption: Exemption | None = None
        """Requests that no policy limits; set before the first check."""

    def __len__(self) -> int:
        return len(self._plans)

    def plan_for(self, costs: Sequence[PolicyCost], subject: Subject) -> Plan:
        """Return the plan of a check; arguments and errors are those of `make_plan`."""
        if subject.key is not None:
            return make_plan(costs, subject, self._key_scheme, self.exemption)
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
        plan = make_plan(costs, subject, self._key_scheme, self.exemption)
        # Clients can send long names, which must not fill the memory.
        cacheable = costs and all(each.policy.has_cacheable_plan for each in costs)
        if self.exemption is not None and self.exemption.networks:
            cacheable = False
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

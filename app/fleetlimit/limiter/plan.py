"""From policies and a subject to the charges that the store decides."""

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fleetlimit.core.charge import Charge
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
from fleetlimit.core.made import made
from fleetlimit.core.policy import ALL_PERCENT, Mode, Policy
from fleetlimit.core.prefetch import PrefetchTerms
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.core.subject import Subject
from fleetlimit.errors import CostError


class PolicyPlan(NamedTuple):
    """One policy's charges: `charges[first:last]` of the plan, in the order of its limits.

    A policy in shadow whose limits could never hold the cost has none, and is `impossible`.
    """

    policy: Policy
    mode: Mode
    first: int
    last: int
    quotas: tuple[Quota, ...] = ()
    never_fits: bool = False


class Plan(NamedTuple):
    """All that one check asks.

    Args:
        policy_plans: The policies that take part; one that is off does not.
        charges: The charges of all parts.
        subject_hash: What stands for the caller in the store, in logs and in traces.
        has_leases: Whether something must be given back when the request ends.
        prefetch: The slices that it may be served from; None to ask the store.
    """

    policy_plans: tuple[PolicyPlan, ...]
    charges: tuple[Charge, ...]
    subject_hash: str
    has_leases: bool = False
    prefetch: PrefetchTerms | None = None

    def charges_of(self, policy_plan: PolicyPlan) -> Sequence[Charge]:
        """Return the charges of one policy."""
        return self.charges[policy_plan.first : policy_plan.last]


def make_plan(costs: Iterable[tuple[Policy, int]], subject: Subject, keys: KeyScheme) -> Plan:
    """Resolve tiers, keys, modes and costs.

    Args:
        costs: Each policy with the cost that the request has under it; a second ask of a policy of
            the same name is left out.
        subject: Who and what is asking.
        keys: How buckets are named.

    Raises:
        CostError: The cost is negative, or more than an enforced limit can ever hold.
    """
    parts: list[PolicyPlan] = []
    charges: list[Charge] = []
    lease, tier = "", subject.tier
    for policy, cost in costs:
        if policy.mode is Mode.OFF or (parts and _includes(parts, policy)):
            continue
        mode = _effective_mode(policy, subject, keys)
        quotas = policy.quotas_for(tier)
        first = len(charges)
        try:
            units = [quota.units_for(cost) for quota in quotas]
        except CostError:
            if mode is Mode.ENFORCE or cost < 0:
                raise
            parts.append(PolicyPlan(policy, mode, first, first, never_fits=True))
            continue
        # Enforced charges share group 0; each policy in shadow is a group of its own.
        group = 0 if mode is Mode.ENFORCE else len(parts) + 1
        buckets = keys.bucket_keys(policy, subject, quotas)
        for key, quota, spends in zip(buckets, quotas, units, strict=True):
            if quota.algorithm is Algorithm.CONCURRENCY:
                lease = lease or secrets.token_hex(6)
                charges.append(Charge(key, quota, spends, lease, group))
            else:
                charges.append(Charge(key, quota, spends, "", group))
        parts.append(PolicyPlan(policy, mode, first, len(charges), quotas))
    slicing = _prefetch_terms(parts, charges, tier)
    caller = keys.subject_hash(subject)
    return Plan(tuple(parts), tuple(charges), caller, bool(lease), slicing)


def _prefetch_terms(
    parts: Sequence[PolicyPlan], charges: Sequence[Charge], tier: str
) -> PrefetchTerms | None:
    """Return the slices of the only policy; with several, or at no cost, the store decides."""
    if len(parts) > 1 or not charges or charges[0].group or not charges[0].units:
        return None
    return parts[0].policy.prefetch_terms(tier)


def _includes(parts: Iterable[PolicyPlan], policy: Policy) -> bool:
    return any(part.policy.name == policy.name for part in parts)


def _effective_mode(policy: Policy, subject: Subject, keys: KeyScheme) -> Mode:
    percent = policy.enforce_percent
    if percent < ALL_PERCENT and keys.rollout_percentile(policy, subject) >= percent:
        return Mode.SHADOW
    return policy.mode


def all_bucket_keys(policies: Iterable[Policy], subject: Subject, keys: KeyScheme) -> list[str]:
    """Return the keys of all buckets that a subject may have, whatever its tier is or was."""
    found = []
    for policy in policies:
        for quotas in policy.quota_sets():
            found += keys.bucket_keys(policy, subject, quotas)
    return sorted(set(found))


def decision_of(
    plan: Plan, statuses: Sequence[BucketStatus | None], *, source: Source, spent: bool
) -> Decision:
    """Say what the verdicts mean; a charge without one was not asked."""
    results: list[PolicyResult] = []
    outcome: Outcome = ALLOWED
    for policy, mode, first, last, quotas, impossible in plan.policy_plans:
        refused, heard = impossible, tuple(statuses[first:last])
        for verdict in heard:
            if verdict is not None and not verdict.allowed:
                refused = True
        said: Outcome = ALLOWED
        if refused:
            said = DENIED if mode is Mode.ENFORCE else Outcome.SHADOW_DENIED
            outcome = DENIED if DENIED in {outcome, said} else said
        results.append(made(PolicyResult, (policy.name, mode, said, quotas, heard)))
    if outcome is DENIED:
        return Decision(outcome, source, tuple(results), _longest_wait(plan, statuses))
    return made(Decision, (outcome, source, tuple(results), 0, spent))


def _longest_wait(plan: Plan, verdicts: Sequence[BucketStatus | None]) -> int:
    """Return the longest wait: all refusing buckets must have room before the request passes."""
    return max(
        verdict.retry_after_us
        for charge, verdict in zip(plan.charges, verdicts, strict=True)
        if charge.group == 0 and verdict is not None and not verdict.allowed
    )


MAX_CACHED_PLANS = 8_192

PolicyCosts = Sequence[tuple[Policy, int]]


class _RoutePlans:
    """The plans of one route's callers, and what they have in common.

    What each caller has of its own is what a processor's caches do not hold when there are many.
    """

    __slots__ = ("plans", "policy_plans")

    def __init__(self) -> None:
        self.policy_plans: tuple[PolicyPlan, ...] = ()
        self.plans: dict[str, tuple[PolicyCosts, Plan]] = {}


class PlanCache:
    """Turns what is asked, and by whom, into plans.

    Args:
        keys: How buckets are named.
    """

    def __init__(self, keys: KeyScheme) -> None:
        self._keys = keys
        self._routes: dict[tuple[str, ...], _RoutePlans] = {}
        self._size = 0

    def plan_for(self, costs: PolicyCosts, subject: Subject) -> Plan:
        """Return the plan of a check.

        Raises:
            CostError: A cost is negative, or no limit could ever hold it.
        """
        address, principal, route, _ = subject
        policy = costs[0][0].name if costs else ""
        place: tuple[str, ...]
        if principal is None:
            name, place = address, (route, policy)
        else:
            name, place = principal.name, (route, policy, principal.tier)
        shared = self._routes.get(place)
        if shared is not None:
            found = shared.plans.get(name)
            if found is not None and found[0] == costs:
                return found[1]
        plan = make_plan(costs, subject, self._keys)
        # Clients can send long names: what is kept must not grow with them.
        if (
            len(name) <= MAX_CACHED_CHARS
            and costs
            and all(each.has_cacheable_plan for each, _ in costs)
        ):
            return self._add(place, name, costs, plan)
        return plan

    def _add(self, place: tuple[str, ...], name: str, costs: PolicyCosts, plan: Plan) -> Plan:
        if self._size >= MAX_CACHED_PLANS:
            self.clear()
        shared = self._routes.setdefault(place, _RoutePlans())
        if plan.policy_plans == shared.policy_plans:
            plan = plan._replace(policy_plans=shared.policy_plans)
        shared.policy_plans = plan.policy_plans
        self._size += name not in shared.plans
        shared.plans[name] = costs, plan
        return plan

    def clear(self) -> None:
        """Forget everything."""
        self._routes.clear()
        self._size = 0

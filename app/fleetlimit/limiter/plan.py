"""From policies and a subject to the charges that the store decides."""

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fleetlimit.core.charge import Charge
from fleetlimit.core.decision import (
    ALLOWED,
    DENIED,
    Decision,
    Outcome,
    PolicyResult,
    Source,
    Verdict,
)
from fleetlimit.core.keys import MAX_KEPT_CHARS, KeyScheme
from fleetlimit.core.made import made
from fleetlimit.core.policy import ALL_PERCENT, Mode, Policy
from fleetlimit.core.prefetch import Slicing
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.core.subject import Subject
from fleetlimit.errors import CostError


class Part(NamedTuple):
    """One policy's charges: `charges[first:last]` of the plan, in the order of its limits.

    A policy in shadow whose limits could never hold the cost has none, and is `impossible`.
    """

    policy: Policy
    mode: Mode
    first: int
    last: int
    quotas: tuple[Quota, ...] = ()
    impossible: bool = False


class Plan(NamedTuple):
    """All that one check asks.

    Args:
        parts: The policies that take part; one that is off does not.
        charges: The charges of all parts.
        caller: What stands for the caller in the store, in logs and in traces.
        holds_leases: Whether something must be given back when the request ends.
        slicing: The slices that it may be served from; None to ask the store.
    """

    parts: tuple[Part, ...]
    charges: tuple[Charge, ...]
    caller: str
    holds_leases: bool = False
    slicing: Slicing | None = None

    def of(self, part: Part) -> Sequence[Charge]:
        """Return the charges of one policy."""
        return self.charges[part.first : part.last]


def make_plan(asks: Iterable[tuple[Policy, int]], subject: Subject, keys: KeyScheme) -> Plan:
    """Resolve tiers, keys, modes and costs.

    Args:
        asks: Each policy with the cost that the request has under it; a second ask of a policy of
            the same name is left out.
        subject: Who and what is asking.
        keys: How buckets are named.

    Raises:
        CostError: The cost is negative, or more than an enforced limit can ever hold.
    """
    parts: list[Part] = []
    charges: list[Charge] = []
    lease, tier = "", subject.tier
    for policy, cost in asks:
        if policy.mode is Mode.OFF or (parts and _names(parts, policy)):
            continue
        mode = _mode(policy, subject, keys)
        quotas = policy.quotas(tier)
        first = len(charges)
        try:
            units = [quota.charge(cost) for quota in quotas]
        except CostError:
            if mode is Mode.ENFORCE or cost < 0:
                raise
            parts.append(Part(policy, mode, first, first, impossible=True))
            continue
        # Enforced charges share group 0; each policy in shadow is a group of its own.
        group = 0 if mode is Mode.ENFORCE else len(parts) + 1
        buckets = keys.buckets(policy, subject, quotas)
        for key, quota, spends in zip(buckets, quotas, units, strict=True):
            if quota.algorithm is Algorithm.CONCURRENCY:
                lease = lease or secrets.token_hex(6)
                charges.append(Charge(key, quota, spends, lease, group))
            else:
                charges.append(Charge(key, quota, spends, "", group))
        parts.append(Part(policy, mode, first, len(charges), quotas))
    slicing = _slicing(parts, charges, tier)
    caller = keys.caller(subject)
    return Plan(tuple(parts), tuple(charges), caller, bool(lease), slicing)


def _slicing(parts: Sequence[Part], charges: Sequence[Charge], tier: str) -> Slicing | None:
    """Return the slices of the only policy; with several, or at no cost, the store decides."""
    if len(parts) > 1 or not charges or charges[0].group or not charges[0].units:
        return None
    return parts[0].policy.slicing(tier)


def _names(parts: Iterable[Part], policy: Policy) -> bool:
    return any(part.policy.name == policy.name for part in parts)


def _mode(policy: Policy, subject: Subject, keys: KeyScheme) -> Mode:
    percent = policy.enforce_percent
    if percent < ALL_PERCENT and keys.percentile(policy, subject) >= percent:
        return Mode.SHADOW
    return policy.mode


def every_bucket(policies: Iterable[Policy], subject: Subject, keys: KeyScheme) -> list[str]:
    """Return the keys of all buckets that a subject may have, whatever its tier is or was."""
    found = []
    for policy in policies:
        for quotas in policy.every_set():
            found += keys.buckets(policy, subject, quotas)
    return sorted(set(found))


def decision_of(
    plan: Plan, verdicts: Sequence[Verdict | None], *, source: Source, spent: bool
) -> Decision:
    """Say what the verdicts mean; a charge without one was not asked."""
    results: list[PolicyResult] = []
    outcome: Outcome = ALLOWED
    for policy, mode, first, last, quotas, impossible in plan.parts:
        refused, heard = impossible, tuple(verdicts[first:last])
        for verdict in heard:
            if verdict is not None and not verdict.fits:
                refused = True
        said: Outcome = ALLOWED
        if refused:
            said = DENIED if mode is Mode.ENFORCE else Outcome.SHADOW_DENIED
            outcome = DENIED if DENIED in {outcome, said} else said
        results.append(made(PolicyResult, (policy.name, mode, said, quotas, heard)))
    if outcome is DENIED:
        return Decision(outcome, source, tuple(results), _longest(plan, verdicts))
    return made(Decision, (outcome, source, tuple(results), 0, spent))


def _longest(plan: Plan, verdicts: Sequence[Verdict | None]) -> int:
    """Return the longest wait: all refusing buckets must have room before the request passes."""
    return max(
        verdict.retry_us
        for charge, verdict in zip(plan.charges, verdicts, strict=True)
        if charge.group == 0 and verdict is not None and not verdict.fits
    )


MAX_KEPT = 8_192

Asks = Sequence[tuple[Policy, int]]


class _Shared:
    """The plans of one route's callers, and what they have in common.

    What each caller has of its own is what a processor's caches do not hold when there are many.
    """

    __slots__ = ("parts", "plans")

    def __init__(self) -> None:
        self.parts: tuple[Part, ...] = ()
        self.plans: dict[str, tuple[Asks, Plan]] = {}


class Planner:
    """Turns what is asked, and by whom, into plans.

    Args:
        keys: How buckets are named.
    """

    def __init__(self, keys: KeyScheme) -> None:
        self._keys = keys
        self._kept: dict[tuple[str, ...], _Shared] = {}
        self._plans = 0

    def plan(self, asks: Asks, subject: Subject) -> Plan:
        """Return the plan of a check.

        Raises:
            CostError: A cost is negative, or no limit could ever hold it.
        """
        address, principal, route, _ = subject
        policy = asks[0][0].name if asks else ""
        place: tuple[str, ...]
        if principal is None:
            name, place = address, (route, policy)
        else:
            name, place = principal.name, (route, policy, principal.tier)
        shared = self._kept.get(place)
        if shared is not None:
            found = shared.plans.get(name)
            if found is not None and found[0] == asks:
                return found[1]
        plan = make_plan(asks, subject, self._keys)
        # Clients can send long names: what is kept must not grow with them.
        if len(name) <= MAX_KEPT_CHARS and asks and all(each.same_for_caller for each, _ in asks):
            return self._keep(place, name, asks, plan)
        return plan

    def _keep(self, place: tuple[str, ...], name: str, asks: Asks, plan: Plan) -> Plan:
        if self._plans >= MAX_KEPT:
            self.clear()
        shared = self._kept.setdefault(place, _Shared())
        if plan.parts == shared.parts:
            plan = plan._replace(parts=shared.parts)
        shared.parts = plan.parts
        self._plans += name not in shared.plans
        shared.plans[name] = asks, plan
        return plan

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._plans = 0

"""From policies and a subject to the charges that the store decides."""

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fleetlimit.core.charge import Charge
from fleetlimit.core.errors import CostError
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import ALL_PERCENT, Mode, Policy
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.core.slices import Slicing
from fleetlimit.core.subject import Subject


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

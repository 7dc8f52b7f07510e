"""Policies whose `prefetch` has no effect, so that every check calls the store."""

from collections.abc import Iterator

from fleetlimit.core.policy import Mode, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.prefetch import PREFETCHABLE, prefetch_terms


def unused_prefetches(policies: PolicySet) -> Iterator[tuple[str, str]]:
    """Yield each policy whose `prefetch` has no effect, and what to write instead.

    Args:
        policies: The policies.
    """
    for policy in policies.policies:
        if policy.mode is not Mode.OFF and policy.prefetch not in {None, "off"}:
            reason = _reason(policy)
            if reason is not None:
                yield policy.name, f"policy {policy.name}: prefetch has no effect {reason}"


def _reason(policy: Policy) -> str | None:
    if policy.mode is Mode.SHADOW or not policy.enforce_percent:
        return "in shadow mode: leave it out until the policy is enforced"
    if policy.prefetch != "auto":
        return None
    if policy.count is not None or policy.cost is not None:
        return "where the response decides what is spent, by count or cost: leave it out"
    quota_sets = policy.quota_sets()
    if any(prefetch_terms(each, "auto") for each in quota_sets):
        return None
    if all(any(quota.algorithm not in PREFETCHABLE for quota in each) for each in quota_sets):
        return "on these algorithms: write token_bucket or fixed_window, or leave it out"
    return "on limits whose burst holds fewer than 32 requests: leave it out"

"""Fleetlimit's `Limiter.check`, without HTTP."""

from contenders.depending import Check
from contenders.export import LIMIT, LIMITS, PREFETCH, STORE
from fleetlimit import Fleetlimit
from fleetlimit.core.decision import Source
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import rate_quota


async def open_check() -> Check:
    """Return the check of one policy with token buckets."""
    limits = [rate_quota(f"{LIMIT} per {minutes} minutes") for minutes in range(1, LIMITS + 1)]
    policies = PolicySet([Policy("exports", tuple(limits), prefetch=PREFETCH)])
    fleetlimit = Fleetlimit(STORE, policies)
    await fleetlimit.start()
    limiter = fleetlimit.limiter

    async def check(caller: str) -> bool:
        decision = await limiter.check("exports", principal=caller)
        # A local decision, made while the store is late, is not a measurement of the store.
        return decision.allowed and decision.source in {Source.STORE, Source.PREFETCH}

    return check

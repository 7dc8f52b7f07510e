"""Fleetlimit's own check, without HTTP."""

from contenders.depending import Check
from contenders.export import LEASE, LIMIT, LIMITS, STORE
from fleetlimit import Fleetlimit
from fleetlimit.core.decision import Source
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import rate_quota


async def open_check() -> Check:
    """Check one policy with token buckets."""
    limits = [rate_quota(f"{LIMIT} per {minutes} minutes") for minutes in range(1, LIMITS + 1)]
    policies = PolicySet([Policy("exports", tuple(limits), prefetch=LEASE)])
    fleetlimit = Fleetlimit(STORE, policies)
    await fleetlimit.start()
    limiter = fleetlimit.limiter

    async def check(caller: str) -> bool:
        decision = await limiter.check("exports", principal=caller)
        # What a share in memory decides, while the store is late, says nothing of the store.
        return decision.allowed and decision.source is Source.STORE

    return check

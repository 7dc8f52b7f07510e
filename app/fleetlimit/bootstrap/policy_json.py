"""Policies and limits as JSON, for the admin port and the command line."""

from typing import Any

from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota


def policy_to_dict(policy: Policy, tier: str = "") -> dict[str, Any]:
    """Return a policy as JSON, with the limits of a tier."""
    return {
        "name": policy.name,
        "key": [part.kind + (f":{part.name}" if part.name else "") for part in policy.key],
        "mode": policy.mode,
        "enforce_percent": policy.enforce_percent,
        "on_store_error": policy.on_store_error,
        "prefetch": policy.prefetch,
        **({} if policy.exempt is None else {"exempt": repr(policy.exempt)}),
        "count": "all" if policy.count is None else policy.count.text,
        "cost": None if policy.cost is None else {"usage": policy.cost.provider},
        "limits": [limit_to_dict(quota) for quota in policy.quotas_for(tier)],
    }


def limit_to_dict(quota: Quota) -> dict[str, Any]:
    """Return a limit as JSON."""
    if quota.algorithm is Algorithm.CONCURRENCY:
        return {"name": quota.name, "concurrency": quota.limit, "cost": quota.cost}
    calendar = quota.calendar
    windows = (
        {}
        if calendar is None
        else {"unit": calendar.unit, "timezone": calendar.timezone, "anchor": calendar.anchor}
    )
    return {
        "name": quota.name,
        "algorithm": quota.algorithm,
        "limit": quota.limit,
        "seconds": quota.period_us / SECOND_US,
        "burst": quota.burst,
        "cost": quota.cost,
        **windows,
    }

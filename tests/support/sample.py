"""Inputs of a usage sample, and its reports."""

import json
from collections.abc import Sequence
from typing import Any

from fleetlimit.core.keys import KeyScheme, parse_bucket_key
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.audit.ledger import INTERVAL_US
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.plan import Plan, PolicyCost, make_plan
from fleetlimit.limiter.store_replies import AcquireResult
from support.clock import EPOCH_US
from support.limiter import rate_policy
from support.stores import allowed_status, denied_status

KEY_SCHEME = KeyScheme()
TEN = rate_policy("p", "10/minute")


def plan_for(policy: Policy = TEN, caller: str = "ann", cost: int = 1) -> Plan:
    return make_plan([PolicyCost(policy, cost)], Subject(principal=Principal(caller)), KEY_SCHEME)


def acquire_result(
    store_now_us: int, remaining: int, *, spent: bool = True, count: int = 1
) -> AcquireResult:
    status = allowed_status(remaining, 1, 1) if spent else denied_status(0, 1, 1, 1)
    return AcquireResult(store_now_us, (status,) * count, spent)


def accounts(sample: UsageSample) -> dict[str, Any]:
    """Return the reported accounts of the only limit, by caller."""
    found: dict[str, dict[str, Any]] = json.loads(sample.snapshot())["accounts"]
    (callers,) = found.values()
    return callers


def intervals(sample: UsageSample) -> list[list[int]]:
    """Return the reported intervals of the only caller: start and figures."""
    ((_, _, found),) = accounts(sample).values()
    return [
        [int(interval) * INTERVAL_US - EPOCH_US, *figures] for interval, figures in found.items()
    ]


def caller_hashes(plans: Sequence[Plan]) -> list[str]:
    return [parse_bucket_key(each.charges[0].key).caller for each in plans]

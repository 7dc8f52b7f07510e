"""What a sample of callers is told, and what it states."""

import json
from collections.abc import Sequence
from typing import Any

from fleetlimit.core.keys import KeyScheme, caller_of
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.audit.ledger import SLOT_US
from fleetlimit.limiter.audit.sample import Sample
from fleetlimit.limiter.plan import Plan, make_plan
from fleetlimit.limiter.ports import Taken
from support.clock import EPOCH_US
from support.limiter import rate
from support.stores import admits, refuses

KEYS = KeyScheme()
TEN = rate("p", "10/minute")


def plan(policy: Policy = TEN, caller: str = "ann", cost: int = 1) -> Plan:
    return make_plan([(policy, cost)], Subject(principal=Principal(caller)), KEYS)


def taken(at_us: int, remaining: int, *, spent: bool = True, count: int = 1) -> Taken:
    verdict = admits(remaining, 1, 1) if spent else refuses(0, 1, 1, 1)
    return Taken(at_us, (verdict,) * count, spent)


def accounts(sample: Sample) -> dict[str, Any]:
    """Return what the sample states of its only limit, by caller."""
    found: dict[str, dict[str, Any]] = json.loads(sample.state())["accounts"]
    (callers,) = found.values()
    return callers


def slots(sample: Sample) -> list[list[int]]:
    """Return what the sample states of its only caller: begin of the slot, and its figures."""
    ((_, _, found),) = accounts(sample).values()
    return [[int(slot) * SLOT_US - EPOCH_US, *figures] for slot, figures in found.items()]


def names(plans: Sequence[Plan]) -> list[str]:
    return [caller_of(each.charges[0].key) for each in plans]

"""Audit of a `Fleetlimit`, from its settings to its metrics."""

import re

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.testing import ManualClock
from support.limiter import rate_policy

POLICIES = PolicySet([rate_policy("exports", "6/minute")])


def metrics(fleetlimit: Fleetlimit) -> dict[str, float]:
    """Return the audit metrics of the policy."""
    text = fleetlimit.metrics.render()[0].decode()
    found = re.findall(r'^(fleetlimit_audit_\w+){policy="exports"} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found if not name.endswith("_created")}


async def test_audit_is_on_by_default() -> None:
    """Units admitted above a limit are in the metrics half a minute later."""
    clock = ManualClock()
    fleetlimit = Fleetlimit(policies=POLICIES, settings=Settings(), clock=clock)
    fleetlimit.activate_policies()
    limiter = fleetlimit.limiter
    for _ in range(2):
        for _ in range(6):
            assert (await limiter.check("exports", principal="ann")).allowed
        await limiter.store.delete([*limiter.audit.sample._buckets])
    for _ in range(15):
        clock.advance(2)
        await limiter.audit.run_once()
    assert metrics(fleetlimit) == {
        "fleetlimit_audit_overshoot": 5,
        "fleetlimit_audit_callers": 1,
        "fleetlimit_audit_intervals_total": 4,
        "fleetlimit_audit_admitted_units_total": 12,
        "fleetlimit_audit_permitted_units_total": 6 + 4 * 0.5,
    }


async def test_audit_is_off_with_zero_keys() -> None:
    """With `audit_callers=0` there are no audit metrics."""
    async with Fleetlimit(policies=POLICIES, settings=Settings(audit_callers=0)) as fleetlimit:
        await fleetlimit.limiter.check("exports", principal="ann")
        assert metrics(fleetlimit) == {}
        assert fleetlimit.limiter.audit.sample._buckets == {}

"""Metrics of the audit."""

from fleetlimit.limiter.events import AuditReported, PolicyAudit
from support.observed import ObservedMetrics


def policy_audit(
    policy: str, overshoot: int, keys: int, counts: tuple[int, int, float]
) -> PolicyAudit:
    windows, admitted, permitted = counts
    return PolicyAudit(policy, overshoot, keys, windows, admitted, permitted)


def by_policy(observed: ObservedMetrics, name: str) -> dict[str, float]:
    return {sample.labels["policy"]: sample.value for sample in observed.samples(name)}


def test_no_series_without_an_audit() -> None:
    """An overshoot of 0 that was not compared must not look like one that was."""
    observed = ObservedMetrics()
    assert by_policy(observed, "fleetlimit_audit_overshoot") == {}
    assert by_policy(observed, "fleetlimit_audit_callers") == {}


def test_gauges_have_the_last_value_and_counters_the_sum() -> None:
    """For each policy in the report."""
    observed = ObservedMetrics(
        AuditReported(
            (policy_audit("a", 0, 3, (6, 10, 12.5)), policy_audit("b", 0, 0, (0, 0, 0.0)))
        ),
        AuditReported((policy_audit("a", 4, 2, (4, 5, 2.5)), policy_audit("b", 0, 0, (0, 1, 0.0)))),
    )
    assert by_policy(observed, "fleetlimit_audit_overshoot") == {"a": 4, "b": 0}
    assert by_policy(observed, "fleetlimit_audit_callers") == {"a": 2, "b": 0}
    assert by_policy(observed, "fleetlimit_audit_intervals_total") == {"a": 10, "b": 0}
    assert by_policy(observed, "fleetlimit_audit_admitted_units_total") == {"a": 15, "b": 1}
    assert by_policy(observed, "fleetlimit_audit_permitted_units_total") == {"a": 15, "b": 0}


def test_removed_policy_has_no_gauges() -> None:
    """Its gauges are removed; its counters stay, as counters do."""
    observed = ObservedMetrics(
        AuditReported(
            (policy_audit("a", 4, 3, (6, 10, 12.5)), policy_audit("b", 1, 1, (1, 1, 1.0)))
        ),
        AuditReported((policy_audit("b", 1, 1, (1, 1, 1.0)),)),
    )
    assert by_policy(observed, "fleetlimit_audit_overshoot") == {"b": 1}
    assert by_policy(observed, "fleetlimit_audit_callers") == {"b": 1}
    assert by_policy(observed, "fleetlimit_audit_intervals_total") == {"a": 6, "b": 2}

"""What the audit says can be scraped, and what it does not say any more is gone."""

from fleetlimit.limiter.events import AuditReported, PolicyAudit
from support.observed import ObservedMetrics


def said(policy: str, overshoot: int, keys: int, counts: tuple[int, int, float]) -> PolicyAudit:
    windows, admitted, permitted = counts
    return PolicyAudit(policy, overshoot, keys, windows, admitted, permitted)


def by_policy(observed: ObservedMetrics, name: str) -> dict[str, float]:
    return {sample.labels["policy"]: sample.value for sample in observed.samples(name)}


def test_without_an_audit_there_is_no_series() -> None:
    """A 0 that nobody has compared must not look like one that somebody has."""
    observed = ObservedMetrics()
    assert by_policy(observed, "fleetlimit_audit_overshoot") == {}
    assert by_policy(observed, "fleetlimit_audit_keys") == {}


def test_gauges_show_the_last_and_counters_the_sum() -> None:
    """For each policy that the audit names."""
    observed = ObservedMetrics(
        AuditReported((said("a", 0, 3, (6, 10, 12.5)), said("b", 0, 0, (0, 0, 0.0)))),
        AuditReported((said("a", 4, 2, (4, 5, 2.5)), said("b", 0, 0, (0, 1, 0.0)))),
    )
    assert by_policy(observed, "fleetlimit_audit_overshoot") == {"a": 4, "b": 0}
    assert by_policy(observed, "fleetlimit_audit_keys") == {"a": 2, "b": 0}
    assert by_policy(observed, "fleetlimit_audit_windows_total") == {"a": 10, "b": 0}
    assert by_policy(observed, "fleetlimit_audit_admitted_units_total") == {"a": 15, "b": 1}
    assert by_policy(observed, "fleetlimit_audit_permitted_units_total") == {"a": 15, "b": 0}


def test_a_policy_that_is_gone_shows_nothing() -> None:
    """Its gauges end with it; its counters stay, as counters do."""
    observed = ObservedMetrics(
        AuditReported((said("a", 4, 3, (6, 10, 12.5)), said("b", 1, 1, (1, 1, 1.0)))),
        AuditReported((said("b", 1, 1, (1, 1, 1.0)),)),
    )
    assert by_policy(observed, "fleetlimit_audit_overshoot") == {"b": 1}
    assert by_policy(observed, "fleetlimit_audit_keys") == {"b": 1}
    assert by_policy(observed, "fleetlimit_audit_windows_total") == {"a": 6, "b": 2}

"""Prometheus metrics: totals equal the responses, and scrapers can parse them."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry, ProcessCollector

from fleetlimit.core.decision import EXEMPT, Outcome, Source
from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import rate_quota
from fleetlimit.errors import ConfigError, StoreUnavailable
from fleetlimit.limiter.events import (
    AuditReported,
    BreakerChanged,
    BreakerState,
    CheckCancelled,
    CheckDecided,
    PoliciesLoaded,
    PoliciesRejected,
    PolicyAudit,
    ReplicasCounted,
    RouteRewritten,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
    UsageUnread,
    UsageUnreadReason,
)
from fleetlimit.telemetry.metrics.observer import PrometheusMetrics
from fleetlimit.telemetry.metrics.policy_labels import MAX_POLICIES
from support.observed import OPENMETRICS, ObservedMetrics
from support.telemetry import TEN_A_MINUTE, decision_event, policy_result


def test_checks_add_up_to_responses() -> None:
    """Every request is counted once, whatever its outcome and its number of policies."""
    two = (policy_result("a"), policy_result("b"))
    observed = ObservedMetrics(
        decision_event(Outcome.ALLOWED, *two),
        decision_event(
            Outcome.DENIED, policy_result("a", Outcome.DENIED), policy_result("b", Outcome.DENIED)
        ),
        *(decision_event(outcome) for outcome in Outcome if outcome is not Outcome.EXEMPT),
        CheckDecided(EXEMPT, "s1", True, "", "GET /health", 0.0),  # noqa: FBT003 - anonymous
    )
    checks = {s.labels["outcome"]: s.value for s in observed.samples("fleetlimit_checks_total")}
    assert checks == {
        "allowed": 2,
        "denied": 2,
        "shadow_denied": 1,
        "fail_open": 1,
        "fail_closed": 1,
        "exempt": 1,
    }
    durations = observed.samples("fleetlimit_check_duration_seconds_count")
    assert sum(sample.value for sample in durations) == sum(checks.values())


def test_admitted_request_counts_every_policy() -> None:
    """An admitted request counts each policy under its outcome."""
    observed = ObservedMetrics(
        decision_event(
            Outcome.SHADOW_DENIED, policy_result("a"), policy_result("b", Outcome.SHADOW_DENIED)
        )
    )
    assert observed.decisions() == {("a", "allowed"): 1, ("b", "shadow_denied"): 1}


def test_rejected_request_counts_only_the_policies_that_rejected_it() -> None:
    """A policy that would have admitted a rejected request spent nothing and is not counted."""
    observed = ObservedMetrics(
        decision_event(Outcome.DENIED, policy_result("a"), policy_result("b", Outcome.DENIED)),
        decision_event(
            Outcome.FAIL_CLOSED, policy_result("a"), policy_result("c", Outcome.FAIL_CLOSED)
        ),
    )
    assert observed.decisions() == {("b", "denied"): 1, ("c", "fail_closed"): 1}


def test_exempt_request_counts_no_policy() -> None:
    """A request without a policy is a check, and a decision of no policy."""
    observed = ObservedMetrics(CheckDecided(EXEMPT, "s1", True, "", "GET /", 0.0))  # noqa: FBT003 - anonymous
    assert observed.decisions() == {}
    assert observed.value("fleetlimit_checks_total", outcome="exempt") == 1
    assert observed.value("fleetlimit_check_duration_seconds_count", source="none") == 1


def test_near_limit_starts_at_20_percent_left() -> None:
    """Of a burst of 10, a request that leaves 2 is near the limit and one that leaves 3 is not."""
    observed = ObservedMetrics(decision_event(Outcome.ALLOWED, policy_result("a", remaining=3)))
    assert observed.value("fleetlimit_near_limit_total", policy="a", tier="none") == 0
    observed.on_events(decision_event(Outcome.ALLOWED, policy_result("a", remaining=2)))
    assert observed.value("fleetlimit_near_limit_total", policy="a", tier="none") == 1


def test_near_limit_needs_an_admission_by_the_policy() -> None:
    """A request denied by the policy, also in shadow mode, is over the limit and not near it."""
    empty = policy_result("a", remaining=0)
    refused = decision_event(Outcome.DENIED, empty, policy_result("b", Outcome.DENIED))
    shadow = decision_event(
        Outcome.SHADOW_DENIED, policy_result("a", Outcome.SHADOW_DENIED, remaining=0)
    )
    observed = ObservedMetrics(
        PoliciesLoaded(PolicySet([Policy("a", (TEN_A_MINUTE,))])), refused, shadow
    )
    assert observed.value("fleetlimit_near_limit_total", policy="a", tier="none") == 0


def test_cache_hits_are_decisions_without_a_store_call() -> None:
    """A decision from the denial cache is a hit, and its duration has its own `source`."""
    observed = ObservedMetrics(
        decision_event(Outcome.DENIED, source=Source.CACHE), decision_event(Outcome.DENIED)
    )
    assert observed.value("fleetlimit_denial_cache_hits_total") == 1
    assert observed.value("fleetlimit_check_duration_seconds_count", source="cache") == 1
    assert observed.value("fleetlimit_check_duration_seconds_sum", source="store") == 0.001


def test_store_and_replica_events_have_metrics() -> None:
    """Store errors, the breaker, lost state and replicas each have a metric."""
    observed = ObservedMetrics(
        StoreFailed("take", StoreUnavailable("slow", kind="timeout")),
        BreakerChanged(BreakerState.OPEN),
        StoreStateLost(),
        CheckCancelled(("a",), "subject", "GET /"),
        StoreServerChanged(),
        ReplicasCounted(3),
        UsageUnread(("a",), UsageUnreadReason.MISSING),
    )
    assert observed.value("fleetlimit_usage_unread_total", reason="missing") == 1
    assert observed.value("fleetlimit_usage_unread_total", reason="encoded") == 0
    assert observed.value("fleetlimit_store_errors_total", error_type="timeout") == 1
    assert observed.value("fleetlimit_breaker_open") == 1
    assert observed.value("fleetlimit_store_state_lost_total") == 1
    assert observed.value("fleetlimit_cancelled_checks_total") == 1
    assert observed.value("fleetlimit_store_server_changes_total") == 1
    assert observed.value("fleetlimit_replicas") == 3
    observed.on_events(BreakerChanged(BreakerState.CLOSED))
    assert observed.value("fleetlimit_breaker_open") == 0


def test_breaker_gauge_is_open_while_the_breaker_of_any_server_is() -> None:
    """A Cluster has a breaker for each server; no address is a label."""
    observed = ObservedMetrics()
    for state, node, gauge in (
        (BreakerState.OPEN, "10.0.0.1:6379", 1),
        (BreakerState.OPEN, "10.0.0.2:6379", 1),
        (BreakerState.CLOSED, "10.0.0.1:6379", 1),
        (BreakerState.CLOSED, "10.0.0.2:6379", 0),
    ):
        observed.on_events(BreakerChanged(state, node))
        assert observed.value("fleetlimit_breaker_open") == gauge


def test_common_store_errors_start_at_zero() -> None:
    """The first error is an increase from 0."""
    shown = ObservedMetrics().samples("fleetlimit_store_errors_total")
    assert {each.labels["error_type"]: each.value for each in shown} == {
        "connection": 0,
        "timeout": 0,
    }


def test_suppressed_log_lines_are_counted() -> None:
    """Each denial without a log line counts as suppressed."""
    observed = ObservedMetrics()
    observed.metrics.on_denial_suppressed()
    assert observed.value("fleetlimit_denials_suppressed_total") == 1


def test_process_callbacks_have_metrics() -> None:
    """Pipelines, the event-loop lag and dropped spans each have a metric."""
    observed = ObservedMetrics()
    observed.metrics.on_pipeline_sent(3)
    observed.metrics.on_event_loop_lag(0.02)
    observed.metrics.on_spans_dropped(2)
    observed.metrics.on_spans_dropped(5)
    assert observed.value("fleetlimit_store_batch_size_bucket", le="2.0") == 0
    assert observed.value("fleetlimit_store_batch_size_bucket", le="4.0") == 1
    assert observed.value("fleetlimit_store_batch_size_sum") == 3
    assert observed.value("fleetlimit_event_loop_lag_seconds_bucket", le="0.01") == 0
    assert observed.value("fleetlimit_event_loop_lag_seconds_bucket", le="0.025") == 1
    assert observed.value("fleetlimit_spans_dropped_total") == 7


def test_loaded_policies_are_exported_before_traffic() -> None:
    """Loading exports limits, windows, tiers and version, and counters at 0."""
    tiers = {"pro": (rate_quota("60/minute"), rate_quota("1000/day"))}
    loaded = PolicySet(
        [Policy("a", (TEN_A_MINUTE,)), Policy("b", (), tiers)], generation=7, digest="abc"
    )
    observed = ObservedMetrics(PoliciesLoaded(loaded))
    limits = {
        (sample.labels["policy"], sample.labels["limit"]): sample.value
        for sample in observed.samples("fleetlimit_policy_limit")
    }
    of_pro = {("b", "pro/tb60"): 60, ("b", "pro/tb86400"): 1000}
    of_others = {("b", "tb60"): 60, ("b", "tb86400"): 1000}
    assert limits == {("a", "tb60"): 10} | of_pro | of_others
    window = observed.value("fleetlimit_policy_window_seconds", policy="b", limit="pro/tb86400")
    assert window == 86_400
    assert observed.value("fleetlimit_policies_loaded") == 2
    assert observed.value("fleetlimit_policy_generation") == 7
    assert observed.value("fleetlimit_policy_info", digest="abc") == 1
    assert observed.value("fleetlimit_decisions_total", policy="a", outcome="denied") == 0
    for tier in ("pro", "none", "other"):
        assert observed.value("fleetlimit_near_limit_total", policy="b", tier=tier) == 0


def test_removed_policies_are_not_exported() -> None:
    """A reload removes the limits and the digest of the previous policies; counts stay."""
    observed = ObservedMetrics(
        PoliciesLoaded(PolicySet([Policy("a", (TEN_A_MINUTE,))], digest="old")),
        decision_event(Outcome.ALLOWED, policy_result("a")),
        PoliciesLoaded(PolicySet([Policy("b", (TEN_A_MINUTE,))], digest="new")),
    )
    shown = [sample.labels["policy"] for sample in observed.samples("fleetlimit_policy_limit")]
    assert shown == ["b"]
    assert observed.value("fleetlimit_policy_window_seconds", policy="a", limit="tb60") is None
    digests = [sample.labels["digest"] for sample in observed.samples("fleetlimit_policy_info")]
    assert digests == ["new"]
    assert observed.decisions() == {("a", "allowed"): 1}


def test_reload_of_the_same_policies_keeps_the_counts() -> None:
    """Loading equal policies keeps their digest and their counts."""
    loaded = PoliciesLoaded(PolicySet([Policy("a", (TEN_A_MINUTE,))], digest="same"))
    observed = ObservedMetrics(loaded, decision_event(Outcome.ALLOWED, policy_result("a")), loaded)
    assert observed.value("fleetlimit_policy_info", digest="same") == 1
    assert observed.decisions() == {("a", "allowed"): 1}


def test_reloads_are_counted_by_result() -> None:
    """A rejected policy set is a failed reload (envoyproxy/ratelimit #150)."""
    observed = ObservedMetrics(PoliciesLoaded(PolicySet()), PoliciesRejected(("p.yaml:3: no",)))
    assert observed.value("fleetlimit_policy_reloads_total", result="success") == 1
    assert observed.value("fleetlimit_policy_reloads_total", result="failure") == 1


def test_last_reload_is_unsuccessful_until_a_valid_file() -> None:
    """The gauge is 1, then 0 after a rejected file, and 1 again after the next valid one."""
    rejected, loaded = PoliciesRejected(("p.yaml:3: no",)), PoliciesLoaded(PolicySet())
    runs = (), (rejected,), (rejected, loaded)
    shown = [
        ObservedMetrics(*events).value("fleetlimit_policy_last_reload_successful")
        for events in runs
    ]
    assert shown == [1, 0, 1]


def test_exemplars_have_the_ids_of_a_sampled_trace(provider: TracerProvider) -> None:
    """Duration and denial of a sampled request carry its trace, exported as OpenMetrics."""
    observed = ObservedMetrics()
    with provider.get_tracer("test").start_as_current_span("request") as span:
        observed.on_events(decision_event(Outcome.DENIED))
        context = span.get_span_context()
    exemplar = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
    buckets = observed.samples("fleetlimit_check_duration_seconds_bucket")
    assert [sample.exemplar.labels for sample in buckets if sample.exemplar] == [exemplar]
    for name in ("fleetlimit_decisions_total", "fleetlimit_denials_total"):
        found = {
            s.labels["outcome"]: s.exemplar.labels for s in observed.samples(name) if s.exemplar
        }
        assert found == {"denied": exemplar}
    plain, content_type = observed.metrics.render("text/plain")
    assert content_type.startswith("text/plain")
    assert b"trace_id" not in plain


def test_unsampled_trace_is_no_exemplar() -> None:
    """A request whose trace is not sampled leaves no exemplar."""
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    observed = ObservedMetrics()
    with provider.get_tracer("test").start_as_current_span("request"):
        observed.on_events(decision_event(Outcome.DENIED))
    body, content_type = observed.metrics.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    assert b"trace_id" not in body


def test_default_registry_of_the_observer_has_process_and_build() -> None:
    """A new registry has the metrics of the process, the platform, Python and the build."""
    body, _ = PrometheusMetrics(version="1.2.3").render()
    for name in (b"process_cpu_seconds_total", b"python_info", b"python_gc_collections_total"):
        assert name in body
    assert b'fleetlimit_build_info{version="1.2.3"} 1.0' in body


def test_registry_passed_in_keeps_its_process_metrics() -> None:
    """Process metrics of a registry passed in are exported once."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    metrics = PrometheusMetrics(registry)
    metrics.register()
    body, _ = metrics.render()
    assert body.count(b"# TYPE process_cpu_seconds_total") == 1
    assert b"fleetlimit_checks_total" in body


def test_event_without_a_metric_is_ignored() -> None:
    """An event without a metric changes none."""
    observed = ObservedMetrics()
    before = observed.samples("fleetlimit_checks_total")
    observed.on_events(RouteRewritten("GET /a", "GET /b"))
    assert observed.samples("fleetlimit_checks_total") == before


def test_registry_accepts_one_observer_at_a_time() -> None:
    """The error has the fix; after the first is unregistered, the registry accepts the second."""
    registry = CollectorRegistry()
    one, other = PrometheusMetrics(registry), PrometheusMetrics(registry)
    one.register()
    one.register()
    with pytest.raises(ConfigError, match=r"registry=CollectorRegistry\(\)"):
        other.register()
    one.unregister()
    one.unregister()
    assert list(registry.collect()) == []
    other.register()
    other.on_event(decision_event())
    assert registry.get_sample_value("fleetlimit_checks_total", {"outcome": "allowed"}) == 1


def test_unregistered_observer_has_its_own_registry() -> None:
    """Without a registry passed in there is nothing to register."""
    metrics = PrometheusMetrics()
    metrics.register()
    metrics.unregister()
    assert b"fleetlimit_checks_total" in metrics.render()[0]


@pytest.mark.parametrize("variable", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_multiprocess_mode_is_rejected(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Half of the metrics would be missing: the error says what to do."""
    monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(ConfigError, match=f"{variable} is set.*one process per pod"):
        PrometheusMetrics()


def test_audit_of_further_policies_is_merged() -> None:
    """Beyond the bound of labels, the worst overshoot is exported, and counts are added up."""
    audits = [PolicyAudit(f"p{n}", n % 7, 1, 2, 3, 4.0) for n in range(MAX_POLICIES + 10)]
    observed = ObservedMetrics(AuditReported(tuple(audits)))
    shown = {each.labels["policy"] for each in observed.samples("fleetlimit_audit_overshoot")}
    assert len(shown) == MAX_POLICIES + 1
    assert observed.value("fleetlimit_audit_overshoot", policy="other") == 6
    assert observed.value("fleetlimit_audit_callers", policy="other") == 10
    assert observed.value("fleetlimit_audit_admitted_units_total", policy="other") == 30


def test_registries_are_independent() -> None:
    """Two observers in one process count independently."""
    one, other = PrometheusMetrics(), PrometheusMetrics()
    one.on_event(decision_event())
    assert one.render()[0] != other.render()[0]
    assert b'fleetlimit_checks_total{outcome="allowed"} 0.0' in other.render()[0]

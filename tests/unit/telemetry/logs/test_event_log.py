"""Event log: lines about the store, the replicas and the policies."""

from opentelemetry.sdk.trace import TracerProvider
from structlog.contextvars import bound_contextvars, merge_contextvars

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.errors import StoreRejected, StoreUnavailable
from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    Event,
    KeySecretsCounted,
    OvershootFound,
    PoliciesLoaded,
    PoliciesRejected,
    ReplicasCounted,
    RouteRewritten,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
    UsageUnread,
    UsageUnreadReason,
)
from fleetlimit.telemetry.logs.config import add_trace_ids
from fleetlimit.telemetry.logs.event_log import EventLog
from fleetlimit.testing import ManualClock
from support.telemetry import TEN_A_MINUTE, Lines, decision_event

TIMEOUT = StoreFailed("take", StoreUnavailable("no answer in 50 ms", kind="timeout"))


def written(*events: Event) -> list[tuple[str, str]]:
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    for event in events:
        log.on_event(event)
    return [(line["level"], line["event"]) for line in lines.written]


def test_store_failure_lines_separate_unavailable_from_refused() -> None:
    """A transient failure is `store.unavailable`, a rejected command `store.rejected`."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    log.on_event(TIMEOUT)
    log.on_event(StoreFailed("adjust", StoreRejected("READONLY", kind="read_only")))
    assert lines.written == [
        {
            "event": "store.unavailable",
            "level": "warning",
            "operation": "take",
            "kind": "timeout",
            "error": "no answer in 50 ms",
        },
        {
            "event": "store.rejected",
            "level": "warning",
            "operation": "adjust",
            "kind": "read_only",
            "error": "READONLY",
        },
    ]


def test_only_a_failed_call_of_a_request_has_its_trace(provider: TracerProvider) -> None:
    """Events of the replica have no trace, though a request is the first to notice them."""
    lines = Lines(merge_contextvars, add_trace_ids)
    log = EventLog(ManualClock(), lines.logger)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("request") as span, bound_contextvars(request="r1"):
        for event in (
            TIMEOUT,
            BreakerChanged(BreakerState.OPEN),
            BreakerChanged(BreakerState.CLOSED),
            StoreStateLost(),
            StoreServerChanged(),
            ReplicasCounted(2),
            PoliciesLoaded(PolicySet([])),
            PoliciesRejected(("a",)),
            OvershootFound("a", "b", "c", 1),
            KeySecretsCounted(1),
        ):
            log.on_event(event)
    found = [(line.get("trace_id"), line.get("request")) for line in lines.written]
    assert found == [(f"{span.get_span_context().trace_id:032x}", "r1"), *[(None, None)] * 9]


def test_key_secrets_that_differ_are_a_warning() -> None:
    """Replicas that agree again are logged, too, so that the end of a rollout is seen."""
    assert written(KeySecretsCounted(1), KeySecretsCounted(0)) == [
        ("warning", "replicas.key_secrets"),
        ("info", "replicas.key_secrets"),
    ]


def test_store_failures_are_rate_limited_with_an_exact_summary() -> None:
    """Of 100 equal failures 5 lines are written, and the summary has the other 95."""
    clock, lines = ManualClock(), Lines()
    log = EventLog(clock, lines.logger)
    for _ in range(100):
        log.on_event(TIMEOUT)
    clock.advance(10)
    log.flush()
    log.close()
    assert len(lines.of("store.unavailable")) == 5
    (summary,) = lines.of("store.unavailable.suppressed")
    assert (summary["operation"], summary["kind"], summary["suppressed"]) == ("take", "timeout", 95)


def test_lines_of_a_cluster_name_the_server() -> None:
    """Failures and breakers of one shard have its address; those of a single server have none."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    node = "10.0.0.1:6379"
    log.on_event(StoreFailed("acquire", TIMEOUT.error, node))
    log.on_event(BreakerChanged(BreakerState.OPEN, node))
    log.on_event(BreakerChanged(BreakerState.CLOSED, node))
    log.on_event(BreakerChanged(BreakerState.OPEN))
    assert [line.get("node") for line in lines.written] == [node, node, node, None]


def test_unread_usage_is_rate_limited_with_an_exact_summary() -> None:
    """Answers without tokens have lines by policy and reason; the others are counted."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger, lines_per_window=1)
    for reason in (UsageUnreadReason.MISSING, UsageUnreadReason.MISSING, UsageUnreadReason.ENCODED):
        log.on_event(UsageUnread(("tokens",), reason))
    log.flush()
    log.close()
    missing, encoded, suppressed = lines.written
    assert (missing["event"], missing["level"]) == ("usage.unread", "warning")
    assert (missing["policies"], missing["reason"]) == (["tokens"], "missing")
    assert "include_usage" in missing["detail"]
    assert encoded["reason"] == "encoded"
    assert suppressed == {
        "event": "usage.unread.suppressed",
        "level": "warning",
        "policies": "tokens",
        "reason": "missing",
        "suppressed": 1,
    }


def test_breaker_and_lost_state_have_lines() -> None:
    """The breaker's changes and a store without its state each have a line."""
    events = (
        BreakerChanged(BreakerState.OPEN),
        BreakerChanged(BreakerState.CLOSED),
        StoreStateLost(),
        StoreServerChanged(),
    )
    assert written(*events) == [
        ("error", "store.breaker.open"),
        ("info", "store.breaker.closed"),
        ("warning", "store.state_lost"),
        ("warning", "store.server_changed"),
    ]


def test_replicas_have_a_line_when_their_number_changes() -> None:
    """An unchanged number of replicas has no line."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    for replicas in (2, 2, 3):
        log.on_event(ReplicasCounted(replicas))
    changes = [(line["previous"], line["replicas"]) for line in lines.of("replicas.changed")]
    assert changes == [(0, 2), (2, 3)]


def test_policies_have_a_line_with_version_or_errors() -> None:
    """A loaded set has its version; a rejected one each error with its line number."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    policies = PolicySet(
        [Policy("a", (TEN_A_MINUTE,))], generation=2, digest="abc", source="p.yaml"
    )
    log.on_event(PoliciesLoaded(policies))
    log.on_event(PoliciesRejected(("p.yaml:3: one", "p.yaml:9: two")))
    loaded, rejected = lines.written
    assert loaded == {
        "event": "policies.loaded",
        "level": "info",
        "count": 1,
        "generation": 2,
        "digest": "abc",
        "source": "p.yaml",
    }
    assert (rejected["level"], rejected["event"]) == ("error", "policies.rejected")
    assert rejected["errors"] == ["p.yaml:3: one", "p.yaml:9: two"]


def test_decisions_have_no_line() -> None:
    """The denial log writes them."""
    assert written(decision_event()) == []


def test_overshoot_line_has_the_hash_of_the_caller() -> None:
    """The hash is the same as in the store's keys and at `/top`."""
    lines = Lines()
    EventLog(ManualClock(), lines.logger).on_event(OvershootFound("exports", "tb60", "x7Gh", 12))
    assert lines.written == [
        {
            "event": "audit.overshoot",
            "level": "error",
            "policy": "exports",
            "limit": "tb60",
            "caller": "x7Gh",
            "units": 12,
        }
    ]


def test_rewritten_route_line_has_both_routes_and_the_order() -> None:
    """The line says which policies were checked, which route was served, and what to write."""
    lines = Lines()
    EventLog(ManualClock(), lines.logger).on_event(RouteRewritten("GET /a", "POST /b"))
    [line] = lines.written
    assert (line["event"], line["level"]) == ("route.rewritten", "error")
    assert (line["decided"], line["routed"]) == ("GET /a", "POST /b")
    assert "add_middleware(RateLimitMiddleware) before" in line["detail"]

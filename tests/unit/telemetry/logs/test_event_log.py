"""What happens to the store, the replicas and the policies is in the log."""

from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.errors import StoreRefused, StoreUnavailable
from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    Event,
    OvershootFound,
    PoliciesLoaded,
    PoliciesRejected,
    ReplicasCounted,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
)
from fleetlimit.telemetry.logs.event_log import EventLog
from support.telemetry import TEN_A_MINUTE, Lines, ManualClock, decision_event

TIMEOUT = StoreFailed("take", StoreUnavailable("no answer in 50 ms", kind="timeout"))


def written(*events: Event) -> list[tuple[str, str]]:
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    for event in events:
        log.on_event(event)
    return [(line["level"], line["event"]) for line in lines.written]


def test_store_failures_say_whether_to_wait_or_to_act() -> None:
    """A store that is away is `store.unavailable`; one that says no is `store.refused`."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    log.on_event(TIMEOUT)
    log.on_event(StoreFailed("settle", StoreRefused("READONLY", kind="readonly")))
    assert lines.written == [
        {
            "event": "store.unavailable",
            "level": "warning",
            "operation": "take",
            "kind": "timeout",
            "error": "no answer in 50 ms",
        },
        {
            "event": "store.refused",
            "level": "warning",
            "operation": "settle",
            "kind": "readonly",
            "error": "READONLY",
        },
    ]


def test_store_failures_are_sampled_and_add_up() -> None:
    """Of 100 equal failures 5 lines are written, and one says that 95 were not."""
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


def test_breaker_and_lost_state_are_written() -> None:
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


def test_replicas_are_written_when_their_number_changes() -> None:
    """A count of replicas that says nothing new has no line."""
    lines = Lines()
    log = EventLog(ManualClock(), lines.logger)
    for replicas in (2, 2, 3):
        log.on_event(ReplicasCounted(replicas))
    changes = [(line["previous"], line["replicas"]) for line in lines.of("replicas.changed")]
    assert changes == [(0, 2), (2, 3)]


def test_policies_are_written_with_version_or_errors() -> None:
    """A loaded set says which one it is; a rejected one says each error with its line."""
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


def test_decisions_are_left_to_the_denial_log() -> None:
    """A decision about a request has no line here."""
    assert written(decision_event()) == []


def test_overshoot_names_whose_bucket_it_was() -> None:
    """By the hash that stands for the caller in the store and at `/top`, too."""
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

"""Denial log: every rejection has a line or is counted in a summary."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from fleetlimit.core.decision import Decision, Outcome, Source
from fleetlimit.limiter.events import CheckDecided, StoreStateLost
from fleetlimit.telemetry.logs.config import add_trace_ids
from fleetlimit.telemetry.logs.denial_log import DenialLog
from fleetlimit.testing import ManualClock
from support.telemetry import Lines, decision_event, policy_result

REFUSED = (Outcome.DENIED, Outcome.FAIL_CLOSED, Outcome.SHADOW_DENIED)


def test_denial_line_has_all_fields() -> None:
    """A denial's line has policy, route, subject hash, tier, source and seconds to wait."""
    lines = Lines()
    decision = Decision(
        Outcome.DENIED,
        Source.CACHE,
        (
            policy_result("a"),
            policy_result("b", Outcome.DENIED),
            policy_result("c", Outcome.DENIED),
        ),
        retry_after_us=1_000_001,
    )
    DenialLog(ManualClock(), lines.logger).on_event(
        CheckDecided(decision, "hash", False, "free", "POST /exports", 0.001)  # noqa: FBT003 - anonymous
    )
    assert lines.written == [
        {
            "event": "request.denied",
            "level": "info",
            "policy": "b",
            "violated": ["b", "c"],
            "route": "POST /exports",
            "subject": "hash",
            "anonymous": False,
            "tier": "free",
            "source": "cache",
            "retry_after": 2,
        }
    ]


def test_shadow_denial_names_the_shadow_policy() -> None:
    """A shadow denial has the policies that would have rejected the request, and no retry time."""
    lines = Lines()
    results = (policy_result("a"), policy_result("b", Outcome.SHADOW_DENIED))
    DenialLog(ManualClock(), lines.logger).on_event(decision_event(Outcome.SHADOW_DENIED, *results))
    (line,) = lines.of("request.shadow_denied")
    assert (line["policy"], line["violated"]) == ("b", ["b"])
    assert "retry_after" not in line


def test_rejection_without_the_store_has_its_own_event() -> None:
    """A request rejected because the store is down is no denial; its wait is at least 1 s."""
    lines = Lines()
    refused = decision_event(Outcome.FAIL_CLOSED, source=Source.NONE)
    DenialLog(ManualClock(), lines.logger).on_event(refused)
    (line,) = lines.written
    assert (line["event"], line["retry_after"]) == ("request.fail_closed", 1)


def test_admitted_requests_and_other_events_have_no_line() -> None:
    """Only rejections are logged here."""
    lines = Lines()
    log = DenialLog(ManualClock(), lines.logger)
    for outcome in set(Outcome) - set(REFUSED):
        log.on_event(decision_event(outcome))
    log.on_event(StoreStateLost())
    log.close()
    assert lines.written == []


def test_flood_is_rate_limited_with_an_exact_summary() -> None:
    """Of 100 denials 5 lines are written, and the summary has the other 95."""
    clock, lines, suppressed = ManualClock(), Lines(), list[int]()
    log = DenialLog(clock, lines.logger, on_suppressed=lambda: suppressed.append(1))
    for _ in range(100):
        log.on_event(decision_event(Outcome.DENIED))
    assert len(lines.of("request.denied")) == 5
    clock.advance(10)
    log.on_event(decision_event(Outcome.ALLOWED))
    assert lines.of("request.denied.suppressed") == [
        {
            "event": "request.denied.suppressed",
            "level": "info",
            "policy": "default",
            "subject": "s1",
            "suppressed": 95,
        }
    ]
    assert len(suppressed) == 95


def test_flood_of_one_subject_does_not_hide_another() -> None:
    """Each policy and subject has its own first lines."""
    lines = Lines()
    log = DenialLog(ManualClock(), lines.logger, lines_per_window=1)
    for _ in range(3):
        log.on_event(decision_event(Outcome.DENIED, subject="loud"))
    log.on_event(decision_event(Outcome.DENIED, subject="quiet"))
    log.on_event(
        decision_event(Outcome.DENIED, policy_result("other", Outcome.DENIED), subject="loud")
    )
    written = [(line["policy"], line["subject"]) for line in lines.of("request.denied")]
    assert written == [("default", "loud"), ("default", "quiet"), ("other", "loud")]


def test_only_denials_call_on_suppressed() -> None:
    """Shadow denials and rejections without the store are rate limited without the callback."""
    lines, suppressed = Lines(), list[int]()
    log = DenialLog(
        ManualClock(), lines.logger, on_suppressed=lambda: suppressed.append(1), lines_per_window=1
    )
    for outcome in (Outcome.SHADOW_DENIED, Outcome.FAIL_CLOSED) * 3:
        log.on_event(decision_event(outcome))
    log.close()
    assert [line["suppressed"] for line in lines.of("request.shadow_denied.suppressed")] == [2]
    assert [line["suppressed"] for line in lines.of("request.fail_closed.suppressed")] == [2]
    assert suppressed == []


@given(
    st.lists(
        st.tuples(st.sampled_from(REFUSED), st.sampled_from("abcdef"), st.integers(0, 6)),
        max_size=150,
    )
)
def test_lines_and_summaries_add_up_to_rejections(steps: list[tuple[Outcome, str, int]]) -> None:
    """Lines plus suppressed numbers equal the rejections, for each event and at any time."""
    clock, lines = ManualClock(), Lines()
    log = DenialLog(clock, lines.logger, lines_per_window=2, capacity=3)
    for outcome, subject, seconds in steps:
        clock.advance(seconds)
        log.on_event(decision_event(outcome, subject=subject))
    log.close()
    for outcome in REFUSED:
        event = f"request.{outcome.value}"
        summaries = lines.of(f"{event}.suppressed")
        logged = len(lines.of(event)) + sum(line["suppressed"] for line in summaries)
        assert logged == sum(step[0] is outcome for step in steps)


def test_denial_line_has_its_trace_and_a_summary_has_none(
    provider: TracerProvider,
) -> None:
    """A denial's line carries the current trace; a summary covers many traces."""
    clock, lines = ManualClock(), Lines(add_trace_ids)
    log = DenialLog(clock, lines.logger, lines_per_window=1)
    with provider.get_tracer("test").start_as_current_span("request") as span:
        log.on_event(decision_event(Outcome.DENIED))
        log.on_event(decision_event(Outcome.DENIED))
        clock.advance(10)
        log.flush()
    (line,) = lines.of("request.denied")
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    (summary,) = lines.of("request.denied.suppressed")
    assert "trace_id" not in summary

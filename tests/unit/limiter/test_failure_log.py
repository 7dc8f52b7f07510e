"""Failure log: a flood of failures has few tracebacks and an exact count."""

from contextvars import ContextVar
from logging import LogRecord

import pytest

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW, WINDOW_US
from support.clock import ManualClock

TRACE: ContextVar[str] = ContextVar("TRACE", default="")


def flood(log: FailureLog, count: int, error: type[Exception] = OSError) -> None:
    for _ in range(count):
        log.write("observer.failed", error("db"))


def test_first_failures_have_tracebacks_and_the_others_a_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The lines and the suppressed number add up, per event and type of exception."""
    clock = ManualClock()
    log = FailureLog(clock)
    flood(log, 200)
    flood(log, 1, ValueError)
    assert [each.message for each in caplog.records] == ["observer.failed"] * (LINES_PER_WINDOW + 1)
    assert all(each.exc_info for each in caplog.records)
    log.flush()
    clock.advance(WINDOW_US / SECOND_US)
    log.flush()
    log.close()
    (summary,) = caplog.messages[LINES_PER_WINDOW + 1 :]
    assert summary == "observer.failed.suppressed error=OSError suppressed=195"


def test_next_failure_and_close_write_summaries(caplog: pytest.LogCaptureFixture) -> None:
    """A window is summarised by the next failure, and an open one at the end."""
    clock = ManualClock()
    log = FailureLog(clock)
    flood(log, 7)
    clock.advance(WINDOW_US / SECOND_US)
    flood(log, 6)
    log.close()
    assert [each for each in caplog.messages if "suppressed" in each] == [
        "observer.failed.suppressed error=OSError suppressed=2",
        "observer.failed.suppressed error=OSError suppressed=1",
    ]


def test_summary_belongs_to_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    """A line has the context of its request, and a summary has none."""
    traces: list[str] = []

    def read_trace(_record: LogRecord) -> bool:
        traces.append(TRACE.get())
        return True

    caplog.handler.addFilter(read_trace)
    log = FailureLog(ManualClock())
    token = TRACE.set("request")
    flood(log, LINES_PER_WINDOW + 1)
    log.close()
    TRACE.reset(token)
    assert traces == [*["request"] * LINES_PER_WINDOW, ""]

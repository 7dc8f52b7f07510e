"""Log of rejected requests: one line each, rate limited in a flood, with exact summaries."""

import contextvars
from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

from fleetlimit.core.decision import DENIED, Decision, Outcome, ceil_seconds
from fleetlimit.limiter.events import CheckDecided, Event
from fleetlimit.limiter.log_sampler import (
    CAPACITY,
    LINES_PER_WINDOW,
    OTHERS,
    WINDOW_US,
    LogSampler,
)
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry import names

_EVENT_NAMES = {
    Outcome.DENIED: names.LOG_DENIED,
    Outcome.SHADOW_DENIED: names.LOG_SHADOW_DENIED,
    Outcome.FAIL_CLOSED: names.LOG_FAIL_CLOSED,
}


def _do_nothing() -> None:
    """Do nothing."""


class DenialLog:
    """Observer that logs rejected requests, and requests that a shadow policy would have rejected.

    For each event, the lines written and the numbers suppressed add up to the rejections. Lines are
    rate limited per policy and subject. A summary is written with the first decision after its
    window, by `flush`, or by `close`.

    Args:
        clock: Monotonic clock of the process.
        logger: Logger to write to; by default `fleetlimit.requests`.
        on_suppressed: Called for each denial without a line of its own.
        lines_per_window: Lines of a policy and subject in a window.
        window_us: Length of a window in microseconds.
        capacity: Maximum number of pairs of policy and subject in the table of each event.
    """

    def __init__(
        self,
        clock: Clock,
        logger: FilteringBoundLogger | None = None,
        *,
        on_suppressed: Callable[[], None] = _do_nothing,
        lines_per_window: int = LINES_PER_WINDOW,
        window_us: int = WINDOW_US,
        capacity: int = CAPACITY,
    ) -> None:
        self._log: FilteringBoundLogger = logger or structlog.get_logger("fleetlimit.requests")
        self._on_suppressed = on_suppressed
        self._has_open_windows = False
        self._last_decision: Decision | None = None
        self._last_policies: tuple[str, ...] = ()
        self._samplers = {
            outcome: LogSampler(
                clock,
                self._summary_writer(event),
                overflow=(OTHERS, OTHERS),
                lines_per_window=lines_per_window,
                window_us=window_us,
                capacity=capacity,
            )
            for outcome, event in _EVENT_NAMES.items()
        }

    def on_event(self, event: Event) -> None:
        """Log a rejection, or count it for a summary."""
        if not isinstance(event, CheckDecided):
            return
        outcome = event.decision.outcome
        sampler = self._samplers.get(outcome)
        if sampler is None:
            if self._has_open_windows:
                self.flush()
            return
        self._has_open_windows = True
        # In a flood the denial cache returns one decision object many times.
        if event.decision is not self._last_decision:
            self._last_decision = event.decision
            self._last_policies = _denying_policies(event.decision)
        policies = self._last_policies
        if sampler.should_log((policies[0] if policies else "", event.subject_hash)):
            self._write(event, policies)
        elif outcome is DENIED:
            self._on_suppressed()

    def flush(self) -> None:
        """Write the summaries of windows that have ended."""
        still_open = [sampler.flush() for sampler in self._samplers.values()]
        self._has_open_windows = any(still_open)

    def close(self) -> None:
        """Write the summaries of all windows, so that the log includes every rejection."""
        for sampler in self._samplers.values():
            sampler.close()

    def _write(self, event: CheckDecided, policies: tuple[str, ...]) -> None:
        decision = event.decision
        shadow = decision.outcome is Outcome.SHADOW_DENIED
        # RFC 9110 section 10.2.3: whole seconds; rounded up, as in the response.
        retry = {} if shadow else {"retry_after": max(1, ceil_seconds(decision.retry_after_us))}
        self._log.info(
            _EVENT_NAMES[decision.outcome],
            policy=next(iter(policies), ""),
            violated=list(policies),
            route=event.route,
            subject=event.subject_hash,
            anonymous=event.anonymous,
            tier=event.tier,
            source=decision.source.value,
            **retry,
        )

    def _summary_writer(self, event: str) -> Callable[[tuple[str, str], int], None]:
        def write_summary(key: tuple[str, str], count: int) -> None:
            policy, subject = key
            # A summary belongs to many traces, so the current one must not be added to it.
            contextvars.Context().run(
                lambda: self._log.info(
                    event + names.SUPPRESSED, policy=policy, subject=subject, suppressed=count
                )
            )

        return write_summary


def _denying_policies(decision: Decision) -> tuple[str, ...]:
    """Return the policies that rejected the request, or would have if they were enforced."""
    if not decision.allowed:
        return decision.denied_by
    return tuple(
        result.policy for result in decision.results if result.outcome is Outcome.SHADOW_DENIED
    )

"""Writes one line for each refusal; in a flood the first few, and then how many were left out."""

from collections.abc import Callable

import structlog
from opentelemetry import context
from structlog.typing import FilteringBoundLogger

from fleetlimit.core.decision import DENIED, Decision, Outcome
from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.events import Decided, Event
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry import names
from fleetlimit.telemetry.logs.rate_limited import CAPACITY, FIRST, WINDOW_US, Sampler

_EVENTS = {
    Outcome.DENIED: names.LOG_DENIED,
    Outcome.SHADOW_DENIED: names.LOG_SHADOW_DENIED,
    Outcome.FAIL_CLOSED: names.LOG_FAIL_CLOSED,
}


def _ignore() -> None:
    """Do nothing."""


class DenialLog:
    """Observes refusals, and the requests that a shadow policy would have refused.

    The lines written and the numbers suppressed add up to the refusals, for each event. A flood is
    sampled per policy and subject. A summary is written with the first decision after its window,
    by `flush`, or by `close`.

    Args:
        clock: The process's own time.
        logger: Where to write.
        suppressed: Called for each denial that gets no line of its own.
        first: Lines written for a policy and subject in a window.
        window_us: Length of a window in microseconds.
        capacity: Pairs of policy and subject told apart at the same time, for each event.
    """

    def __init__(
        self,
        clock: Clock,
        logger: FilteringBoundLogger | None = None,
        *,
        suppressed: Callable[[], None] = _ignore,
        first: int = FIRST,
        window_us: int = WINDOW_US,
        capacity: int = CAPACITY,
    ) -> None:
        self._log: FilteringBoundLogger = logger or structlog.get_logger("fleetlimit.requests")
        self._suppressed = suppressed
        self._flooded = False
        self._last: Decision | None = None
        self._policies: tuple[str, ...] = ()
        self._samplers = {
            outcome: Sampler(
                clock,
                self._summary(event),
                overflow=(names.OTHERS, names.OTHERS),
                first=first,
                window_us=window_us,
                capacity=capacity,
            )
            for outcome, event in _EVENTS.items()
        }

    def observe(self, event: Event) -> None:
        """Write a line for a refusal, or count it for a summary."""
        if not isinstance(event, Decided):
            return
        outcome = event.decision.outcome
        sampler = self._samplers.get(outcome)
        if sampler is None:
            if self._flooded:
                self.flush()
            return
        self._flooded = True
        # In a flood one decision is given again and again.
        if event.decision is not self._last:
            self._last, self._policies = event.decision, _named(event.decision)
        policies = self._policies
        if sampler.admit((policies[0] if policies else "", event.subject)):
            self._write(event, policies)
        elif outcome is DENIED:
            self._suppressed()

    def flush(self) -> None:
        """Write the summaries of windows that have ended."""
        still_open = [sampler.flush() for sampler in self._samplers.values()]
        self._flooded = any(still_open)

    def close(self) -> None:
        """Write the summaries of all windows, so that no refusal is missing."""
        for sampler in self._samplers.values():
            sampler.close()

    def _write(self, event: Decided, policies: tuple[str, ...]) -> None:
        decision = event.decision
        shadow = decision.outcome is Outcome.SHADOW_DENIED
        # RFC 9110 section 10.2.3: whole seconds; rounded up, as in the response.
        retry = {} if shadow else {"retry_after": max(1, -(-decision.retry_after_us // SECOND_US))}
        self._log.info(
            _EVENTS[decision.outcome],
            policy=next(iter(policies), ""),
            violated=list(policies),
            route=event.route,
            subject=event.subject,
            anonymous=event.anonymous,
            tier=event.tier,
            source=decision.source.value,
            **retry,
        )

    def _summary(self, event: str) -> Callable[[tuple[str, str], int], None]:
        def summarise(key: tuple[str, str], count: int) -> None:
            policy, subject = key
            # A summary belongs to many traces, and not to the one that happens to be current.
            token = context.attach(context.Context())
            try:
                self._log.info(
                    event + names.SUPPRESSED, policy=policy, subject=subject, suppressed=count
                )
            finally:
                context.detach(token)

        return summarise


def _named(decision: Decision) -> tuple[str, ...]:
    """Return the policies that refused the request, or would have if they were enforced."""
    if not decision.allowed:
        return decision.violated
    return tuple(
        result.policy for result in decision.results if result.outcome is Outcome.SHADOW_DENIED
    )

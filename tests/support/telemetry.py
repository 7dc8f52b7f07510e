"""Events and a log for tests of the observers."""

from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from fleetlimit.core.decision import BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import rate_quota
from fleetlimit.limiter.events import CheckDecided

TEN_A_MINUTE = rate_quota("10/minute")


class Lines:
    """A logger that records its lines, each with the level as `level`."""

    def __init__(self, *processors: Any) -> None:
        self.written: list[MutableMapping[str, Any]] = []
        self.logger: FilteringBoundLogger = structlog.wrap_logger(
            None,
            processors=[structlog.processors.add_log_level, *processors, self._capture],
            wrapper_class=structlog.make_filtering_bound_logger(0),
        )

    def _capture(
        self, _logger: Any, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        self.written.append(event)
        raise structlog.DropEvent

    def of(self, event: str) -> list[MutableMapping[str, Any]]:
        """Return the lines of one event."""
        return [line for line in self.written if line["event"] == event]


def policy_result(
    policy: str = "default", outcome: Outcome = Outcome.ALLOWED, *, remaining: int = 9
) -> PolicyResult:
    """Return the result of one policy with a limit of 10 a minute."""
    status = BucketStatus(outcome is Outcome.ALLOWED, remaining, 0, 0, 0)
    return PolicyResult(policy, Mode.ENFORCE, outcome, (TEN_A_MINUTE,), (status,))


def decision_event(
    outcome: Outcome = Outcome.ALLOWED,
    *results: PolicyResult,
    source: Source = Source.STORE,
    subject: str = "s1",
    retry_after_us: int = 0,
    tier: str = "",
    route: str = "GET /items",
) -> CheckDecided:
    """Return the event of a check, by default of the policy `default`."""
    decision = Decision(
        outcome, source, results or (policy_result(outcome=outcome),), retry_after_us=retry_after_us
    )
    return CheckDecided(decision, subject, not tier, tier, route, 0.001)

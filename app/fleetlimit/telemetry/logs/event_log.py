"""Log of store, replica, policy, audit and routing events."""

import contextvars
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from fleetlimit.core.decision import Outcome
from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    CheckDecided,
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
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW, OTHERS, WINDOW_US, LogSampler
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry import names

_KEY_SECRETS_DETAIL: Final = (
    "each value of FLEETLIMIT_KEY_SECRET has buckets of its own, and callers have their limits in "
    "each of them: write the same value for all replicas"
)


_USAGE_DETAILS: Final = {
    UsageUnreadReason.MISSING: "the answer has no `usage`: request it, for a stream of OpenAI with "
    'stream_options={"include_usage": true}, and match only the routes of the model',
    UsageUnreadReason.ENCODED: "the answer is compressed before it reaches RateLimitMiddleware: "
    "call app.add_middleware(RateLimitMiddleware) before that of the compression",
    UsageUnreadReason.MEDIA_TYPE: "the answer has neither Content-Type application/json nor "
    "text/event-stream: set one of them, and match only the routes of the model",
    UsageUnreadReason.TOO_LARGE: "the answer is longer than what is searched for its `usage`",
    UsageUnreadReason.INTERRUPTED: "the answer ended before it stated all its tokens",
}


class EventLog:
    """Observer that logs every event except decisions.

    Store failures are rate limited per operation and kind; the lines written and the numbers
    suppressed add up. A summary is written with the next failure, by `flush`, or by `close`.

    Args:
        clock: Monotonic clock of the process.
        logger: Logger to write to; by default `fleetlimit.events`.
        lines_per_window: Lines of an operation and kind of failure in a window.
        window_us: Length of a window in microseconds.
    """

    only_outcomes = frozenset[Outcome]()

    def __init__(
        self,
        clock: Clock,
        logger: FilteringBoundLogger | None = None,
        *,
        lines_per_window: int = LINES_PER_WINDOW,
        window_us: int = WINDOW_US,
    ) -> None:
        self._log: FilteringBoundLogger = logger or structlog.get_logger("fleetlimit.events")
        self._failure_sampler = LogSampler(
            clock,
            self._write_summary,
            overflow=(names.LOG_STORE_UNAVAILABLE, OTHERS, OTHERS),
            lines_per_window=lines_per_window,
            window_us=window_us,
        )
        self._usage_sampler = LogSampler(
            clock,
            self._write_usage_summary,
            overflow=(OTHERS, OTHERS),
            lines_per_window=lines_per_window,
            window_us=window_us,
        )
        self._replicas = 0

    def on_event(self, event: Event) -> None:
        """Log the event, unless it is a decision, which `DenialLog` logs."""
        if isinstance(event, CheckDecided):
            return
        if isinstance(event, StoreFailed):
            self._on_store_failed(event)
        elif isinstance(event, UsageUnread):
            self._on_usage_unread(event)
        else:
            # In an empty context: the event is one of the replica, and not of the trace of a
            # request that is the first to notice it.
            contextvars.Context().run(self._write, event)

    def _write(self, event: Event) -> None:
        match event:
            case BreakerChanged(state=BreakerState.OPEN):
                self._log.error(names.LOG_BREAKER_OPEN, **_node_field(event))
            case BreakerChanged():
                self._log.info(names.LOG_BREAKER_CLOSED, **_node_field(event))
            case StoreStateLost():
                self._log.warning(names.LOG_STATE_LOST)
            case StoreServerChanged():
                self._log.warning(names.LOG_SERVER_CHANGED)
            case ReplicasCounted() if event.replicas != self._replicas:
                self._log.info(names.LOG_REPLICAS, replicas=event.replicas, previous=self._replicas)
                self._replicas = event.replicas
            case KeySecretsCounted():
                log = self._log.warning if event.others else self._log.info
                log(names.LOG_KEY_SECRETS, others=event.others, detail=_KEY_SECRETS_DETAIL)
            case PoliciesLoaded() | PoliciesRejected() | OvershootFound() | RouteRewritten():
                self._write_policies(event)

    def _write_policies(
        self, event: PoliciesLoaded | PoliciesRejected | OvershootFound | RouteRewritten
    ) -> None:
        match event:
            case PoliciesLoaded():
                policies = event.policies
                self._log.info(
                    names.LOG_POLICIES_LOADED,
                    count=len(policies.policies),
                    generation=policies.generation,
                    digest=policies.digest,
                    source=policies.source,
                )
            case PoliciesRejected():
                self._log.error(names.LOG_POLICIES_REJECTED, errors=list(event.errors))
            case OvershootFound():
                self._log.error(
                    names.LOG_OVERSHOOT,
                    policy=event.policy,
                    limit=event.limit,
                    caller=event.caller,
                    units=event.units,
                )
            case RouteRewritten():
                self._log.error(
                    names.LOG_ROUTE_REWRITTEN,
                    decided=event.decided,
                    routed=event.routed,
                    detail="a middleware changed the path or the method after RateLimitMiddleware, "
                    "so the policies of another route were checked: call "
                    "app.add_middleware(RateLimitMiddleware) before app.add_middleware of that "
                    "middleware",
                )

    def flush(self) -> None:
        """Write the summaries of windows that have ended."""
        self._failure_sampler.flush()
        self._usage_sampler.flush()

    def close(self) -> None:
        """Write the summaries of all windows, so that the log includes every failure."""
        self._failure_sampler.close()
        self._usage_sampler.close()

    def _on_store_failed(self, event: StoreFailed) -> None:
        error = event.error
        name = names.LOG_STORE_UNAVAILABLE if error.transient else names.LOG_STORE_REJECTED
        if self._failure_sampler.should_log((name, event.operation, error.kind)):
            fields = {"operation": event.operation, "kind": error.kind, "error": str(error)}
            self._log.warning(name, **fields, **_node_field(event))

    def _on_usage_unread(self, event: UsageUnread) -> None:
        policies = ", ".join(event.policies)
        if self._usage_sampler.should_log((policies, event.reason)):
            self._log.warning(
                names.LOG_USAGE_UNREAD,
                policies=list(event.policies),
                reason=event.reason,
                detail=_USAGE_DETAILS[event.reason],
            )

    def _write_usage_summary(self, key: tuple[str, str], count: int) -> None:
        policies, reason = key
        # As in `_write_summary`.
        contextvars.Context().run(
            lambda: self._log.warning(
                names.LOG_USAGE_UNREAD + names.SUPPRESSED,
                policies=policies,
                reason=reason,
                suppressed=count,
            )
        )

    def _write_summary(self, key: tuple[str, str, str], count: int) -> None:
        name, operation, kind = key
        # A summary belongs to many traces, so the current one must not be added to it.
        contextvars.Context().run(
            lambda: self._log.warning(
                name + names.SUPPRESSED, operation=operation, kind=kind, suppressed=count
            )
        )


def _node_field(event: BreakerChanged | StoreFailed) -> dict[str, str]:
    """Return the address of a Cluster's server as a field."""
    return {names.NODE: event.node} if event.node else {}

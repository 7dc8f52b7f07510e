"""Writes a line for what happens to the store, the replicas and the policies."""

import structlog
from opentelemetry import context
from structlog.typing import FilteringBoundLogger

from fleetlimit.limiter.events import (
    BreakerChanged,
    BreakerState,
    Decided,
    Event,
    OvershootFound,
    PoliciesLoaded,
    PoliciesRejected,
    ReplicasCounted,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
)
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry import names
from fleetlimit.telemetry.logs.rate_limited import FIRST, WINDOW_US, Sampler


class EventLog:
    """Observes everything but the decisions about requests.

    Failures of the store are sampled per operation and kind; the lines written and the numbers
    suppressed add up. A summary is written with the next failure, by `flush`, or by `close`.

    Args:
        clock: The process's own time.
        logger: Where to write.
        first: Lines written for an operation and kind of failure in a window.
        window_us: Length of a window in microseconds.
    """

    def __init__(
        self,
        clock: Clock,
        logger: FilteringBoundLogger | None = None,
        *,
        first: int = FIRST,
        window_us: int = WINDOW_US,
    ) -> None:
        self._log: FilteringBoundLogger = logger or structlog.get_logger("fleetlimit.events")
        self._failures = Sampler(
            clock,
            self._summarise,
            overflow=(names.LOG_STORE_UNAVAILABLE, names.OTHERS, names.OTHERS),
            first=first,
            window_us=window_us,
        )
        self._replicas = 0

    def observe(self, event: Event) -> None:
        """Write a line for the event, if it is one for this log."""
        # Decisions are by far the most frequent, and told by the log of denials.
        if not isinstance(event, Decided):
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case StoreFailed():
                self._store_failed(event)
            case BreakerChanged(BreakerState.OPEN):
                self._log.error(names.LOG_BREAKER_OPEN)
            case BreakerChanged():
                self._log.info(names.LOG_BREAKER_CLOSED)
            case StoreStateLost():
                self._log.warning(names.LOG_STATE_LOST)
            case StoreServerChanged():
                self._log.warning(names.LOG_SERVER_CHANGED)
            case ReplicasCounted(replicas) if replicas != self._replicas:
                self._log.info(names.LOG_REPLICAS, replicas=replicas, previous=self._replicas)
                self._replicas = replicas
            case PoliciesLoaded(policies):
                self._log.info(
                    names.LOG_POLICIES_LOADED,
                    count=len(policies.policies),
                    generation=policies.generation,
                    digest=policies.digest,
                    source=policies.source,
                )
            case PoliciesRejected(errors):
                self._log.error(names.LOG_POLICIES_REJECTED, errors=list(errors))
            case OvershootFound(policy, limit, caller, units):
                self._log.error(
                    names.LOG_OVERSHOOT, policy=policy, limit=limit, caller=caller, units=units
                )

    def flush(self) -> None:
        """Write the summaries of windows that have ended."""
        self._failures.flush()

    def close(self) -> None:
        """Write the summaries of all windows, so that no failure is missing."""
        self._failures.close()

    def _store_failed(self, event: StoreFailed) -> None:
        error = event.error
        name = names.LOG_STORE_UNAVAILABLE if error.transient else names.LOG_STORE_REFUSED
        if self._failures.admit((name, event.operation, error.kind)):
            self._log.warning(name, operation=event.operation, kind=error.kind, error=str(error))

    def _summarise(self, key: tuple[str, str, str], count: int) -> None:
        name, operation, kind = key
        # A summary belongs to many traces, and not to the one that happens to be current.
        token = context.attach(context.Context())
        try:
            self._log.warning(
                name + names.SUPPRESSED, operation=operation, kind=kind, suppressed=count
            )
        finally:
            context.detach(token)

"""Counts every decision for Prometheus, with the trace of a slow or denied one as exemplar."""

from collections.abc import Iterable

from opentelemetry import context, trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from fleetlimit.core.decision import Decision, Outcome, Source
from fleetlimit.limiter.events import (
    AuditReported,
    BreakerChanged,
    BreakerState,
    CheckDecided,
    Event,
    PoliciesLoaded,
    PoliciesRejected,
    ReplicasCounted,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
)
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter, gauge, histogram
from fleetlimit.telemetry.metrics.audit_metrics import AuditMetrics
from fleetlimit.telemetry.metrics.buffer import BufferedUpdates
from fleetlimit.telemetry.metrics.duration_histogram import DurationHistogram
from fleetlimit.telemetry.metrics.policy_counters import DecisionLabels, PolicyCounters, labels_of
from fleetlimit.telemetry.metrics.policy_gauges import PolicyGauges
from fleetlimit.telemetry.tracing.head_sampling import in_unsampled_request


class PrometheusMetrics:
    """Observes the limiter and renders what it counted.

    Args:
        registry: Registry to add to; when left out a new one, with the process's own metrics.
        version: Version to show in `fleetlimit_build_info`.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, version: str = "") -> None:
        if registry is None:
            # A registry of somebody else's, such as the default one, has these already.
            registry = CollectorRegistry()
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)
        self._registry = registry
        self._decision_buffer: BufferedUpdates[CheckDecided] = BufferedUpdates(
            registry, self._count_batch
        )
        self._suppressed_buffer: BufferedUpdates[None] = BufferedUpdates(
            registry, self._count_suppressed
        )
        checks = counter(names.CHECKS, registry)
        self._checks: dict[Outcome, Counter] = {item: checks.labels(item) for item in Outcome}
        self._policy_counters = PolicyCounters(registry)
        self._durations = DurationHistogram(registry)
        self._cache_hits = counter(names.DENIAL_CACHE_HITS, registry)
        self._suppressed = counter(names.DENIALS_SUPPRESSED, registry)
        self._store_errors = counter(names.STORE_ERRORS, registry)
        for kind in names.COMMON_STORE_ERRORS:
            self._store_errors.labels(kind)
        self._state_lost = counter(names.STORE_STATE_LOST, registry)
        self._server_changes = counter(names.STORE_SERVER_CHANGES, registry)
        self._batches = histogram(names.STORE_BATCH_SIZE, registry)
        self._breaker_open = gauge(names.BREAKER_OPEN, registry)
        self._replicas = gauge(names.REPLICAS, registry)
        reloads = counter(names.POLICY_RELOADS, registry)
        self._reloads = {result: reloads.labels(result) for result in names.RELOAD_RESULTS}
        self._last_reload = gauge(names.POLICY_LAST_RELOAD, registry)
        self._last_reload.set(1)
        self._policy_gauges = PolicyGauges(registry)
        self._audit = AuditMetrics(registry)
        self._lag = histogram(names.EVENT_LOOP_LAG, registry)
        self._spans_dropped = counter(names.SPANS_DROPPED, registry)
        gauge(names.BUILD_INFO, registry).labels(version).set(1)

    def on_event(self, event: Event) -> None:
        """Count an event."""
        match event:
            case CheckDecided():
                self._on_decision(event)
            case StoreFailed():
                self._store_errors.labels(event.error.kind).inc()
            case BreakerChanged():
                self._breaker_open.set(event.state is BreakerState.OPEN)
            case StoreStateLost():
                self._state_lost.inc()
            case StoreServerChanged():
                self._server_changes.inc()
            case ReplicasCounted():
                self._replicas.set(event.replicas)
            case PoliciesLoaded():
                # What is not told yet was decided under the policies before these.
                self._decision_buffer.flush()
                self._policy_gauges.update(event.policies)
                self._policy_counters.load(event.policies)
                self._reloads[names.SUCCESS].inc()
                self._last_reload.set(1)
            case PoliciesRejected():
                self._reloads[names.FAILURE].inc()
                self._last_reload.set(0)
            case AuditReported():
                self._audit.update(event)

    def flush(self) -> None:
        """Bring the counters up to date for those who read one without the registry's others."""
        self._decision_buffer.flush()
        self._suppressed_buffer.flush()

    def on_denial_suppressed(self) -> None:
        """Count a denial that got no log line of its own."""
        self._suppressed_buffer.add(None)

    def on_batch_sent(self, calls: int) -> None:
        """Count the calls that travelled to the store in one pipeline."""
        self._batches.observe(calls)

    def on_event_loop_lag(self, seconds: float) -> None:
        """Count by how much the event loop was late."""
        self._lag.observe(seconds)

    def on_spans_dropped(self, spans: int) -> None:
        """Count spans that were not delivered."""
        self._spans_dropped.inc(spans)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Write all metrics out.

        Args:
            accept: The scraper's Accept header. Exemplars are shown to one that asks for
                OpenMetrics.

        Returns:
            The body and its content type.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _on_decision(self, event: CheckDecided) -> None:
        exemplar = _current_exemplar()
        if exemplar is None:
            self._decision_buffer.add(event)
            return
        self._durations.observe(event.decision.source, [event.seconds], exemplar)
        self._increment(labels_of(event), 1, exemplar)

    def _count_batch(self, events: Iterable[CheckDecided]) -> None:
        durations_by_labels: dict[DecisionLabels, list[float]] = {}
        decision: Decision | None = None
        for event in events:
            # In a flood one decision is given again and again, and is always of one kind.
            if event.decision is not decision:
                decision = event.decision
                durations = durations_by_labels.setdefault(labels_of(event), [])
            durations.append(event.seconds)
        for kind, durations in durations_by_labels.items():
            self._durations.observe(kind.source, durations)
            self._increment(kind, len(durations))

    def _count_suppressed(self, denials: Iterable[None]) -> None:
        self._suppressed.inc(sum(1 for _ in denials))

    def _increment(
        self, labels: DecisionLabels, number: int, exemplar: dict[str, str] | None = None
    ) -> None:
        self._checks[labels.outcome].inc(number)
        if labels.source is Source.CACHE:
            self._cache_hits.inc(number)
        self._policy_counters.count(labels, number, exemplar)


def _current_exemplar() -> dict[str, str] | None:
    """Return the current trace where it is kept; pointing to any other would lead nowhere."""
    # Where nothing is traced nothing is current: either is seen in less than half the time.
    if not context.get_current() or in_unsampled_request():
        return None
    span = trace.get_current_span().get_span_context()
    if not span.trace_flags.sampled:
        return None
    return {
        names.TRACE_ID: trace.format_trace_id(span.trace_id),
        names.SPAN_ID: trace.format_span_id(span.span_id),
    }

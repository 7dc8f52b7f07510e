"""Prometheus observer: counts every event, with exemplars of sampled traces."""

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
from fleetlimit.telemetry.metrics.policy_counters import (
    DecisionLabels,
    PolicyCounters,
    labels_of,
)
from fleetlimit.telemetry.metrics.policy_gauges import PolicyGauges
from fleetlimit.telemetry.tracing.unsampled import in_unsampled_request


class PrometheusMetrics:
    """Observer of the limiter, and the metrics that it exports.

    Args:
        registry: Registry to add the metrics to; by default a new one, with the metrics of the
            process, the platform and the garbage collector.
        version: Version to show in `fleetlimit_build_info`.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, version: str = "") -> None:
        if registry is None:
            # A registry passed in, such as the default one, may have these already.
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
                # Flush first: buffered decisions belong to the previous policy set.
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
        """Flush, for callers that read a single counter instead of scraping the registry."""
        self._decision_buffer.flush()
        self._suppressed_buffer.flush()

    def on_denial_suppressed(self) -> None:
        """Count a denial without a log line."""
        self._suppressed_buffer.add(None)

    def on_batch_sent(self, calls: int) -> None:
        """Record the number of calls in a pipeline to the store."""
        self._batches.observe(calls)

    def on_event_loop_lag(self, seconds: float) -> None:
        """Record a measurement of the event-loop lag."""
        self._lag.observe(seconds)

    def on_spans_dropped(self, spans: int) -> None:
        """Count spans that were not delivered."""
        self._spans_dropped.inc(spans)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics in an exposition format.

        Args:
            accept: Accept header of the scraper. Exemplars require OpenMetrics.

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
            # In a flood the denial cache returns one decision object many times.
            if event.decision is not decision:
                decision = event.decision
                durations = durations_by_labels.setdefault(labels_of(event), [])
            durations.append(event.seconds)
        for labels, durations in durations_by_labels.items():
            self._durations.observe(labels.source, durations)
            self._increment(labels, len(durations))

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
    """Return the exemplar labels if the current span is sampled.

    An exemplar of an unsampled trace would be a dead link.
    """
    # Fast path: with no context, or in an unsampled request, skip the span lookup.
    if not context.get_current() or in_unsampled_request():
        return None
    span = trace.get_current_span().get_span_context()
    if not span.trace_flags.sampled:
        return None
    return {
        names.TRACE_ID: trace.format_trace_id(span.trace_id),
        names.SPAN_ID: trace.format_span_id(span.span_id),
    }

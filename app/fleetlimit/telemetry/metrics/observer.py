"""Prometheus observer: counts every event, with exemplars of sampled traces."""

import os
from collections.abc import Iterable

from opentelemetry import context, trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Metric,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fleetlimit.core.decision import Decision, Outcome, Source
from fleetlimit.core.policy import Policy
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.events import (
    AuditReported,
    BreakerChanged,
    BreakerState,
    CallerLimitsFailed,
    CheckCancelled,
    CheckDecided,
    Event,
    PoliciesLoaded,
    PoliciesRejected,
    PolicyAudit,
    ReplicasCounted,
    StoreFailed,
    StoreJoined,
    StoreServerChanged,
    StoreStateLost,
    UsageUnread,
    UsageUnreadReason,
)
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter, gauge, histogram
from fleetlimit.telemetry.metrics.bulk_histogram import BulkHistogram
from fleetlimit.telemetry.metrics.policy_counters import (
    DecisionLabels,
    PolicyCounters,
    labels_of,
)
from fleetlimit.telemetry.metrics.policy_gauges import PolicyGauges
from fleetlimit.telemetry.metrics.policy_labels import PolicyLabels, labelled_tiers
from fleetlimit.telemetry.metrics.tallies import Tallies
from fleetlimit.telemetry.tracing.unsampled import in_unsampled_request


class PrometheusMetrics:
    """Observer of the limiter, and the metrics that it exports.

    Args:
        registry: Registry that has the metrics from `register` to `unregister`; by default a new
            one, with the metrics of the process, the platform and the garbage collector.
        version: Version to show in `fleetlimit_build_info`.

    Raises:
        ConfigError: The multiprocess mode of prometheus-client is on.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, version: str = "") -> None:
        _reject_multiprocess_mode()
        own = CollectorRegistry()
        if registry is None:
            # A registry passed in, such as the default one, may have these already.
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=own)
        self._registry = own if registry is None else registry
        self._collector = None if registry is None else _RegistryCollector(own)
        self._registered = False
        self._decisions: Tallies[DecisionLabels] = Tallies(own, self._add_decisions)
        self._suppressed_denials: Tallies[None] = Tallies(own, self._add_suppressed)
        self._batch_sizes: Tallies[int] = Tallies(own, self._add_batches)
        self._last_decision: Decision | None = None
        self._last_labels: DecisionLabels | None = None
        checks = counter(names.CHECKS, own)
        self._checks: dict[Outcome, Counter] = {item: checks.labels(item) for item in Outcome}
        self._policy_labels = PolicyLabels()
        self._policy_counters = PolicyCounters(own, self._policy_labels)
        self._durations = BulkHistogram(names.CHECK_DURATION, own, Source)
        self._cache_hits = counter(names.DENIAL_CACHE_HITS, own)
        self._suppressed = counter(names.DENIALS_SUPPRESSED, own)
        self._store_errors = counter(names.STORE_ERRORS, own)
        for kind in names.COMMON_STORE_ERRORS:
            self._store_errors.labels(kind)
        self._counters: dict[type[Event], Counter] = {
            CheckCancelled: counter(names.CANCELLED_CHECKS, own),
            CallerLimitsFailed: counter(names.CALLER_LIMITS_FAILURES, own),
            StoreStateLost: counter(names.STORE_STATE_LOST, own),
            StoreServerChanged: counter(names.STORE_SERVER_CHANGES, own),
        }
        unread = counter(names.USAGE_UNREAD, own)
        self._usage_unread = {reason: unread.labels(reason) for reason in UsageUnreadReason}
        self._batches = BulkHistogram(names.STORE_BATCH_SIZE, own)
        self._breaker_open = gauge(names.BREAKER_OPEN, own)
        self._open_nodes: set[str] = set()
        self._replicas = gauge(names.REPLICAS, own)
        self._store_info = gauge(names.STORE_INFO, own)
        reloads = counter(names.POLICY_RELOADS, own)
        self._reloads = {result: reloads.labels(result) for result in names.RELOAD_RESULTS}
        self._last_reload = gauge(names.POLICY_LAST_RELOAD, own)
        self._last_reload.set(1)
        self._policy_gauges = PolicyGauges(own, self._policy_labels)
        self._audit = _AuditMetrics(own)
        self._lag = histogram(names.EVENT_LOOP_LAG, own)
        self._spans_dropped = counter(names.SPANS_DROPPED, own)
        gauge(names.BUILD_INFO, own).labels(version).set(1)

    def register(self) -> None:
        """Add the metrics to the registry that was passed in, unless they are in it.

        Raises:
            ConfigError: The registry has metrics of these names already.
        """
        if self._collector is None or self._registered:
            return
        try:
            self._registry.register(self._collector)
        except ValueError as error:
            raise ConfigError(
                "the registry has metrics of these names already: close the other Fleetlimit "
                "first, or pass registry=CollectorRegistry() to each"
            ) from error
        self._registered = True

    def unregister(self) -> None:
        """Remove the metrics from the registry that was passed in."""
        if self._collector is not None and self._registered:
            self._registry.unregister(self._collector)
            self._registered = False

    def on_event(self, event: Event) -> None:
        """Count an event."""
        match event:
            case CheckDecided():
                self._on_decision(event)
            case CheckCancelled() | CallerLimitsFailed() | StoreStateLost() | StoreServerChanged():
                self._counters[type(event)].inc()
            case StoreFailed() | UsageUnread():
                self._count_kind(event)
            case BreakerChanged():
                self._on_breaker_changed(event)
            case ReplicasCounted():
                self._replicas.set(event.replicas)
            case StoreJoined():
                self._store_info.clear()
                self._store_info.labels(event.state, event.key_secret).set(1)
            case PoliciesLoaded():
                # Flush first: the decisions until now belong to the previous policy set.
                self._decisions.flush()
                tiers = labelled_tiers(event.policies)
                self._policy_gauges.update(event.policies, tiers)
                self._policy_counters.load(event.policies, tiers)
                self._reloads[names.SUCCESS].inc()
                self._last_reload.set(1)
            case PoliciesRejected():
                self._reloads[names.FAILURE].inc()
                self._last_reload.set(0)
            case AuditReported():
                self._audit.update(self._with_bounded_labels(event))

    def _count_kind(self, event: StoreFailed | UsageUnread) -> None:
        if isinstance(event, StoreFailed):
            self._store_errors.labels(event.error.kind).inc()
        else:
            self._usage_unread[event.reason].inc()

    def flush(self) -> None:
        """Flush, for callers that read a single counter instead of scraping the registry."""
        self._decisions.flush()
        self._suppressed_denials.flush()
        self._batch_sizes.flush()

    def on_denial_suppressed(self) -> None:
        """Count a denial without a log line."""
        self._suppressed_denials.count(None)

    def on_routes_limited(self, limited: Iterable[tuple[str, Policy]]) -> None:
        """Export the denials of these routes from 0, each under a policy that may deny them."""
        self._policy_counters.export_denials(limited)

    def on_pipeline_sent(self, calls: int) -> None:
        """Record the number of calls in a pipeline to the store."""
        self._batch_sizes.count(calls)

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

    def _on_breaker_changed(self, event: BreakerChanged) -> None:
        if event.state is BreakerState.OPEN:
            self._open_nodes.add(event.node)
        else:
            self._open_nodes.discard(event.node)
        self._breaker_open.set(bool(self._open_nodes))

    def _on_decision(self, event: CheckDecided) -> None:
        decision, exemplar = event.decision, _current_exemplar()
        self._durations.observe(decision.source, event.seconds, exemplar=exemplar)
        # In a flood the denial cache returns one decision object many times.
        labels = self._last_labels if decision is self._last_decision else None
        if labels is None:
            labels = self._last_labels = labels_of(event)
            self._last_decision = decision
        if exemplar is None:
            self._decisions.count(labels)
        else:
            self._add_decisions(labels, 1, exemplar)

    def _add_decisions(
        self, labels: DecisionLabels, number: int, exemplar: dict[str, str] | None = None
    ) -> None:
        self._checks[labels.outcome].inc(number)
        if labels.source is Source.CACHE:
            self._cache_hits.inc(number)
        self._policy_counters.count(labels, number, exemplar)

    def _add_suppressed(self, _: None, number: int) -> None:
        self._suppressed.inc(number)

    def _add_batches(self, size: int, number: int) -> None:
        self._batches.observe("", size, number)

    def _with_bounded_labels(self, event: AuditReported) -> AuditReported:
        """Return the report with the policies beyond the bound of labels merged into one."""
        merged: dict[str, PolicyAudit] = {}
        for audit in event.policies:
            label = self._policy_labels.label(audit.policy)
            sums = merged.get(label, PolicyAudit(label, 0, 0, 0, 0, 0))
            merged[label] = PolicyAudit(
                label,
                max(sums.overshoot, audit.overshoot),
                sums.callers + audit.callers,
                sums.intervals + audit.intervals,
                sums.admitted + audit.admitted,
                sums.permitted + audit.permitted,
            )
        return AuditReported(tuple(merged.values()))


class _RegistryCollector(Collector):
    """Collector of all metrics of a registry, which adds and removes them in one step.

    Args:
        registry: Registry of the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def describe(self) -> Iterable[Metric]:
        """Return the metrics, whose names must be free in the other registry."""
        return self._registry.collect()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        return self._registry.collect()


def _reject_multiprocess_mode() -> None:
    """Reject the multiprocess mode, in which the files of a process lack part of the metrics.

    They have neither histograms of checks, exemplars, tallies nor removed series.
    """
    for variable in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        if variable in os.environ:
            raise ConfigError(
                f"{variable} is set, but the metrics of Fleetlimit are of one process: unset it, "
                "run one process per pod, and scale by replicas, each scraped by itself"
            )


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


class _AuditMetrics:
    """Gauges and counters of the audit; without an audit they have no series.

    Args:
        registry: Registry to add the metrics to.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._overshoot = gauge(names.AUDIT_OVERSHOOT, registry)
        self._keys = gauge(names.AUDIT_CALLERS, registry)
        self._windows = counter(names.AUDIT_INTERVALS, registry)
        self._admitted = counter(names.AUDIT_ADMITTED, registry)
        self._permitted = counter(names.AUDIT_PERMITTED, registry)
        self._exported: set[str] = set()

    def update(self, event: AuditReported) -> None:
        """Export the report, and remove the gauges of policies that are not in it."""
        for audit in event.policies:
            self._overshoot.labels(audit.policy).set(audit.overshoot)
            self._keys.labels(audit.policy).set(audit.callers)
            self._windows.labels(audit.policy).inc(audit.intervals)
            self._admitted.labels(audit.policy).inc(audit.admitted)
            self._permitted.labels(audit.policy).inc(audit.permitted)
        exported = {audit.policy for audit in event.policies}
        for stale in self._exported - exported:
            self._overshoot.remove(stale)
            self._keys.remove(stale)
        self._exported = exported

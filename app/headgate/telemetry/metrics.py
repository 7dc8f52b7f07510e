"""Counts every decision for Prometheus, with the trace of a slow or denied one as exemplar."""

from dataclasses import dataclass

from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from headgate.core.decision import Decision, Outcome, PolicyResult, Source
from headgate.limiter.events import (
    BreakerChanged,
    BreakerState,
    Decided,
    Event,
    PoliciesLoaded,
    PoliciesRejected,
    ReplicasCounted,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
)
from headgate.telemetry import names
from headgate.telemetry.instruments import counter, gauge, histogram
from headgate.telemetry.policy_gauges import PolicyGauges

_NEAR = 5
"""A limit is near when a fifth of it is left: 80 % is used."""


@dataclass(frozen=True, slots=True)
class _PolicyCounters:
    """One policy's counters, bound once: looking up children by label costs more than counting."""

    outcomes: dict[Outcome, Counter]
    near_limit: Counter


class Metrics:
    """Observes the limiter and renders what it counted.

    Args:
        registry: Registry to add to; when left out a new one, with the process's own metrics.
        version: Version to show in `headgate_build_info`.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, version: str = "") -> None:
        if registry is None:
            # A registry of somebody else's, such as the default one, has these already.
            registry = CollectorRegistry()
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)
        self._registry = registry
        checks = counter(names.CHECKS, registry)
        self._checks: dict[Outcome, Counter] = {item: checks.labels(item) for item in Outcome}
        self._decisions = counter(names.DECISIONS, registry)
        self._near_limit = counter(names.NEAR_LIMIT, registry)
        durations = histogram(names.CHECK_DURATION, registry)
        self._durations: dict[Source, Histogram] = {item: durations.labels(item) for item in Source}
        self._cache_hits = counter(names.DENIAL_CACHE_HITS, registry)
        self._suppressed = counter(names.DENIALS_SUPPRESSED, registry)
        self._store_errors = counter(names.STORE_ERRORS, registry)
        self._state_lost = counter(names.STORE_STATE_LOST, registry)
        self._server_changes = counter(names.STORE_SERVER_CHANGES, registry)
        self._breaker_open = gauge(names.BREAKER_OPEN, registry)
        self._replicas = gauge(names.REPLICAS, registry)
        reloads = counter(names.POLICY_RELOADS, registry)
        self._reloads = {result: reloads.labels(result) for result in names.RELOAD_RESULTS}
        self._gauges = PolicyGauges(registry)
        gauge(names.BUILD_INFO, registry).labels(version).set(1)
        self._policies: dict[str, _PolicyCounters] = {}

    def observe(self, event: Event) -> None:
        """Count an event."""
        match event:
            case Decided():
                self._decided(event)
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
                self._gauges.show(event.policies)
                for policy in event.policies.policies:
                    self._counters(policy.name)
                self._reloads[names.SUCCESS].inc()
            case PoliciesRejected():
                self._reloads[names.FAILURE].inc()

    def denial_suppressed(self) -> None:
        """Count a denial that got no log line of its own."""
        self._suppressed.inc()

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

    def _decided(self, event: Decided) -> None:
        decision = event.decision
        exemplar = _exemplar()
        self._checks[decision.outcome].inc()
        self._durations[decision.source].observe(event.seconds, exemplar)
        if decision.source is Source.CACHE:
            self._cache_hits.inc()
        for result in _counted(decision):
            counters = self._policies.get(result.policy) or self._counters(result.policy)
            refused = exemplar if result.outcome is Outcome.DENIED else None
            counters.outcomes[result.outcome].inc(1, refused)
            if result.outcome is Outcome.ALLOWED and _is_near(result):
                counters.near_limit.inc()

    def _counters(self, policy: str) -> _PolicyCounters:
        found = self._policies.get(policy)
        if found is None:
            found = self._policies[policy] = _PolicyCounters(
                outcomes={item: self._decisions.labels(policy, item) for item in Outcome},
                near_limit=self._near_limit.labels(policy),
            )
        return found


def _counted(decision: Decision) -> tuple[PolicyResult, ...]:
    """Return all policies, or of a refused request those that refused: the others spent nothing."""
    if decision.allowed:
        return decision.results
    return tuple(
        result
        for result in decision.results
        if result.outcome in {Outcome.DENIED, Outcome.FAIL_CLOSED}
    )


def _is_near(result: PolicyResult) -> bool:
    return any(
        limit.verdict is not None and limit.verdict.remaining * _NEAR <= limit.quota.burst
        for limit in result.limits
    )


def _exemplar() -> dict[str, str] | None:
    """Return the current trace where it is kept; pointing to any other would lead nowhere."""
    context = trace.get_current_span().get_span_context()
    if not context.trace_flags.sampled:
        return None
    return {
        names.TRACE_ID: trace.format_trace_id(context.trace_id),
        names.SPAN_ID: trace.format_span_id(context.span_id),
    }

"""Prometheus metrics of the audit, labelled by policy."""

from prometheus_client import CollectorRegistry

from fleetlimit.limiter.events import AuditReported
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter, gauge


class AuditMetrics:
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

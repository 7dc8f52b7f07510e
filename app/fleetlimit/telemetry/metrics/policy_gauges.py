"""Prometheus gauges of the active policies: limits, windows, number and version."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from fleetlimit.core.policy import Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import gauge
from fleetlimit.telemetry.metrics.policy_labels import PolicyLabels


class PolicyGauges:
    """Gauges of the active policies; the series of a removed policy are removed with it.

    A policy without a label of its own has no series.

    Args:
        registry: Registry to add the gauges to.
        labels: Values of the label `policy`.
    """

    def __init__(self, registry: CollectorRegistry, labels: PolicyLabels) -> None:
        self._labels = labels
        self._loaded = gauge(names.POLICIES_LOADED, registry)
        self._generation = gauge(names.POLICY_GENERATION, registry)
        self._info = gauge(names.POLICY_INFO, registry)
        self._limit = gauge(names.POLICY_LIMIT, registry)
        self._window = gauge(names.POLICY_WINDOW, registry)
        self._digest: str | None = None
        self._exported: set[tuple[str, str]] = set()

    def update(self, policies: PolicySet, tiers: frozenset[str]) -> None:
        """Export these policies in place of the previous ones, with the limits of these tiers."""
        self._loaded.set(len(policies.policies))
        self._generation.set(policies.generation)
        if self._digest is not None and self._digest != policies.digest:
            self._info.remove(self._digest)
        self._digest = policies.digest
        self._info.labels(policies.digest).set(1)
        exported = set()
        for policy in policies.policies:
            if self._labels.label(policy.name) != policy.name:
                continue
            for label, quota in _labelled_quotas(policy, tiers):
                self._limit.labels(policy.name, label).set(quota.limit)
                self._window.labels(policy.name, label).set(quota.period_us / SECOND_US)
                exported.add((policy.name, label))
        for stale in self._exported - exported:
            self._limit.remove(*stale)
            self._window.remove(*stale)
        self._exported = exported


def _labelled_quotas(policy: Policy, tiers: frozenset[str]) -> Iterator[tuple[str, Quota]]:
    """Return the quotas with their `limit` label: the quota's name, after `tier/` in a tier.

    The quotas of the first tier also apply to all other callers of a policy without `limits`.
    """
    for quota in policy.limits or next(iter(policy.tiers.values())):
        yield quota.name, quota
    for tier, quotas in policy.tiers.items():
        for quota in quotas if tier in tiers else ():
            yield f"{tier}/{quota.name}", quota

"""Shows the policies in force, and nothing of those that are not any more."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry

from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import SECOND_US, Quota
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import gauge


class PolicyGauges:
    """Gauges of the policies' limits, number and version.

    Args:
        registry: Where the gauges are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._loaded = gauge(names.POLICIES_LOADED, registry)
        self._generation = gauge(names.POLICY_GENERATION, registry)
        self._info = gauge(names.POLICY_INFO, registry)
        self._limit = gauge(names.POLICY_LIMIT, registry)
        self._window = gauge(names.POLICY_WINDOW, registry)
        self._digest: str | None = None
        self._exported: set[tuple[str, str]] = set()

    def update(self, policies: PolicySet) -> None:
        """Show these policies in place of those shown before."""
        self._loaded.set(len(policies.policies))
        self._generation.set(policies.generation)
        if self._digest is not None and self._digest != policies.digest:
            self._info.remove(self._digest)
        self._digest = policies.digest
        self._info.labels(policies.digest).set(1)
        exported = set()
        for policy in policies.policies:
            for label, quota in _limits(policy):
                self._limit.labels(policy.name, label).set(quota.limit)
                self._window.labels(policy.name, label).set(quota.period_us / SECOND_US)
                exported.add((policy.name, label))
        for stale in self._exported - exported:
            self._limit.remove(*stale)
            self._window.remove(*stale)
        self._exported = exported


def _limits(policy: Policy) -> Iterator[tuple[str, Quota]]:
    for quota in policy.limits:
        yield quota.name, quota
    for tier, quotas in policy.tiers.items():
        for quota in quotas:
            yield f"{tier}/{quota.name}", quota

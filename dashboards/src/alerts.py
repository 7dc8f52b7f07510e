"""Alerts, and the burn-rate alerts of two objectives: availability and latency.

The burn rates and their pairs of windows are those of Google's SRE Workbook, chapter 5. The long
window shows that the loss matters, and the short one that it continues.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dashboard import FLEET, HEALTHY, HOLDS, RUNBOOK, THROTTLED
from fleetlimit.telemetry import names
from promql import RELEASE, aggregate, changed_state
from recording_rules import (
    ADMISSIONS,
    ALL_RELEASES,
    CHECKS,
    DEGRADED,
    DENIALS,
    LIMIT,
    NEAR_LIMIT,
    OBJECTIVE_SECONDS,
    SHORTEST,
    SLOW,
    Rule,
    select,
    share,
)

CRITICAL: Final = "critical"
"""Severity: needs action now."""
WARNING: Final = "warning"
"""Severity: needs action this week."""
INFO: Final = "info"
"""Severity: needs no action by itself. The chart omits these alerts unless they are requested."""

TIER_SHARE: Final = "0.2"
"""Share of a tier's requests that is denied, or near the limit, beyond what its limit makes
normal."""
DEGRADED_SHARE: Final = "0.01"
"""Share of degraded checks. A smaller share is left to the error budget."""
MIN_CHECKS_PER_SECOND: Final = "0.1"
"""Below this traffic no burn-rate alert fires: a single bad check would exhaust the budget."""

_POLICY: Final = (*RELEASE, names.POLICY)
# Prometheus fills in the labels. `FleetlimitMetricsMissing` may have none.
_SELECTED: Final = "".join(
    f"{{{{ with $labels.{label} }}}}&var-{label}={{{{ . }}}}{{{{ end }}}}" for label in RELEASE
)


@dataclass(frozen=True, slots=True)
class Alert:
    """Alerting rule.

    Args:
        name: Name; in lower case, the anchor of its runbook section.
        expression: Condition.
        lasts: How long the condition holds before the alert fires.
        severity: `CRITICAL`, `WARNING` or `INFO`.
        summary: One line.
        description: One sentence with the affected release and the value.
        panel: Dashboard uid and title of the panel that shows the condition.
        window: Long window of a burn-rate alert; distinguishes alerts of one name.
    """

    name: str
    expression: str
    lasts: str
    severity: str
    summary: str
    description: str
    panel: tuple[str, str]
    window: str = ""

    def rule(self, panel_ids: Mapping[tuple[str, str], int]) -> Rule:
        """Return the rule for Prometheus.

        Args:
            panel_ids: Panel ids by dashboard uid and title.

        Raises:
            KeyError: The panel does not exist.
        """
        window = {"window": self.window} if self.window else {}
        url = f"/d/{self.panel[0]}?viewPanel={panel_ids[self.panel]}{_SELECTED}"
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.lasts,
            "labels": {"severity": self.severity, **window},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{RUNBOOK}#{self.name.lower()}",
                "dashboard": url,
            },
        }


@dataclass(frozen=True, slots=True)
class Burn:
    """Burn rate of an error budget.

    Args:
        rate: Multiple of the rate that spends the budget in exactly 30 days.
        budget_lasts: How long the budget lasts at this rate.
        long: Long window.
        short: Short window.
        lasts: How long both windows exceed the rate before the alert fires.
        severity: `CRITICAL` or `WARNING`.
    """

    rate: str
    budget_lasts: str
    long: str
    short: str
    lasts: str
    severity: str


BURNS: Final = (
    Burn("14.4", "50 hours", "1h", "5m", "2m", CRITICAL),
    Burn("6", "5 days", "6h", "30m", "15m", CRITICAL),
    Burn("3", "10 days", "1d", "2h", "1h", WARNING),
    Burn("1", "30 days", "3d", "6h", "3h", WARNING),
)


def alerts() -> Iterator[Alert]:
    """Return all alerts."""
    for burn in BURNS:
        yield _burn_alert(
            "FleetlimitAvailabilityBurn",
            DEGRADED,
            burn,
            budget="0.001",
            summary="Too many checks are decided without the shared limit",
            loss="were decided without the shared limit",
            panel="Degraded checks by outcome",
        )
    for burn in BURNS:
        yield _burn_alert(
            "FleetlimitLatencyBurn",
            SLOW,
            burn,
            budget="0.01",
            summary="Too many checks are slow",
            loss=f"took longer than {OBJECTIVE_SECONDS * 1000:g} ms",
            panel="Check latency by source",
        )
    yield from _limit_alerts()
    yield from _store_alerts()
    yield from _fleet_alerts()
    yield from _policy_file_alerts()
    yield Alert(
        "FleetlimitMetricsMissing",
        f"absent({select(names.BUILD_INFO.name)})",
        "5m",
        CRITICAL,
        "Prometheus has no Fleetlimit metrics",
        "Prometheus scrapes no replica{{ with $labels.job }} of {{ . }}{{ end }}, so no other "
        "alert can fire.",
        (FLEET, "Replicas"),
    )


def _burn_alert(
    name: str, checks: str, burn: Burn, *, budget: str, summary: str, loss: str, panel: str
) -> Alert:
    conditions = [
        f"{select(share(checks, window))} > {burn.rate} * {budget}"
        for window in (burn.long, burn.short)
    ]
    traffic = f"avg_over_time({select(CHECKS)}[{burn.long}]) > {MIN_CHECKS_PER_SECOND}"
    return Alert(
        name,
        "\nand ".join((*conditions, traffic)),
        burn.lasts,
        burn.severity,
        summary,
        f"In the last {burn.long}, {{{{ $value | humanizePercentage }}}} of the checks of "
        f"{{{{ $labels.job }}}} {loss}. At this rate the 30-day error budget lasts "
        f"{burn.budget_lasts} or less.",
        (HEALTHY, panel),
        window=burn.long,
    )


def _limit_alerts() -> Iterator[Alert]:
    yield Alert(
        "FleetlimitOvershoot",
        # FleetlimitStateLost reports a lost state. A failover may lose the last writes, which the
        # documentation states and no alert reports.
        f"{aggregate('max', select(names.AUDIT_OVERSHOOT.name), *_POLICY)} > 0\n"
        f"unless on ({', '.join(RELEASE)}) {changed_state(ALL_RELEASES)} > 0",
        "0m",
        CRITICAL,
        "A limit was exceeded",
        "Policy {{ $labels.policy }} of {{ $labels.job }} admitted {{ $value }} units above the "
        "limit of one caller.",
        (HOLDS, "Overshoot by policy"),
    )
    intervals = f"increase({select(names.AUDIT_INTERVALS.name)}[15m])"
    yield Alert(
        "FleetlimitAuditSilent",
        f"{select(CHECKS)} > {MIN_CHECKS_PER_SECOND}\n"
        f"and on ({', '.join(RELEASE)}) {aggregate('sum', intervals, *RELEASE)} == 0",
        "15m",
        WARNING,
        "The audit compares nothing",
        "{{ $labels.job }} decides {{ $value | humanize }} checks per second, and no replica has "
        "compared the usage of a caller with its limits for 15 minutes, so an overshoot would not "
        "be seen.",
        (HOLDS, "Overshoot by policy"),
    )
    denied, admitted = select(DENIALS), select(ADMISSIONS)
    yield Alert(
        "FleetlimitPolicyDenying",
        # A caller that retries once whenever its limit is spent is denied once in limit + 1 times.
        f"{denied} / ({denied} + {admitted})\n> {TIER_SHARE} + 1 / ({select(LIMIT)} + 1)",
        "1h",
        INFO,
        "A policy has denied many requests of a tier for an hour",
        "Policy {{ $labels.policy }} of {{ $labels.job }} denies "
        "{{ $value | humanizePercentage }} of the requests of tier {{ $labels.tier }}.",
        (THROTTLED, "Denied share by policy and tier"),
    )
    yield Alert(
        "FleetlimitNearLimit",
        # A caller that spends its limit from full to empty is near it for a fifth of the limit,
        # and for one request more.
        f"{select(NEAR_LIMIT)} / {admitted}\n> {TIER_SHARE} + 1 / {select(LIMIT)}",
        "1h",
        INFO,
        "Callers of a tier have been near their limit for an hour",
        "{{ $value | humanizePercentage }} of the requests that policy {{ $labels.policy }} of "
        "{{ $labels.job }} admits of tier {{ $labels.tier }} leave the caller with 20 % or less of "
        "the limit.",
        (THROTTLED, "Near the limit by policy and tier"),
    )


def _store_alerts() -> Iterator[Alert]:
    breaker = select(names.BREAKER_OPEN.name)
    all_open = aggregate("min", breaker, *RELEASE)
    yield Alert(
        "FleetlimitStoreUnreachable",
        f"{all_open} == 1",
        "30s",
        CRITICAL,
        "No replica reaches the store",
        "No replica of {{ $labels.job }} reaches the store, or one of its servers in a Cluster. "
        "Each policy applies its on_store_error.",
        (HEALTHY, "Circuit breaker"),
    )
    yield Alert(
        "FleetlimitBreakerOpen",
        f"{breaker} == 1\nand on ({', '.join(RELEASE)}) {all_open} == 0",
        "2m",
        WARNING,
        "One replica does not reach the store",
        "{{ $labels.pod }} of {{ $labels.job }} does not reach the store, or one of its servers in "
        "a Cluster, while other replicas do.",
        (HEALTHY, "Circuit breaker"),
    )
    yield Alert(
        "FleetlimitDegraded",
        f"{select(share(DEGRADED, SHORTEST))} > {DEGRADED_SHARE}",
        "15m",
        WARNING,
        "Checks have been decided without the shared limit for 15 minutes",
        "{{ $value | humanizePercentage }} of the checks of {{ $labels.job }} are decided without "
        "the shared limit.",
        (HEALTHY, "Degraded checks by outcome"),
    )
    lost = f"increase({select(names.STORE_STATE_LOST.name)}[10m])"
    yield Alert(
        "FleetlimitStateLost",
        f"{aggregate('max', lost, *RELEASE)} > 0",
        "0m",
        WARNING,
        "The store lost its state",
        "The store of {{ $labels.job }} lost its state, so every caller has a full bucket again.",
        (HEALTHY, "Store state lost, server changed"),
    )


def _fleet_alerts() -> Iterator[Alert]:
    scraped = aggregate("count", select(names.BUILD_INFO.name), *RELEASE)
    counted = aggregate("max", select(names.REPLICAS.name), *RELEASE)
    stores = aggregate(
        "count", select(names.STORE_INFO.name), *RELEASE, names.STATE, names.KEY_SECRET
    )
    yield Alert(
        "FleetlimitStoresDiffer",
        f"{aggregate('count', stores, *RELEASE)} > 1",
        "5m",
        CRITICAL,
        "Replicas do not share their limits",
        "The replicas of {{ $labels.job }} use {{ $value }} different stores, key prefixes or key "
        "secrets. Each of these groups admits the whole limit.",
        (FLEET, "Replicas"),
    )
    yield Alert(
        "FleetlimitReplicasUncounted",
        f"{scraped}\n> {counted}",
        "5m",
        CRITICAL,
        "Replicas are missing in the store",
        "Prometheus scrapes {{ $value }} replicas of {{ $labels.job }}, and the store counts "
        "fewer, so some replicas may not share their limits.",
        (FLEET, "Replicas"),
    )


def _policy_file_alerts() -> Iterator[Alert]:
    digests = aggregate("count", select(names.POLICY_INFO.name), *RELEASE, names.DIGEST)
    yield Alert(
        "FleetlimitReplicasDisagree",
        f"{aggregate('count', digests, *RELEASE)} > 1",
        "5m",
        CRITICAL,
        "Replicas serve different policies",
        "The replicas of {{ $labels.job }} serve {{ $value }} different policy sets.",
        (HOLDS, "Pods by policy set"),
    )
    yield Alert(
        "FleetlimitReloadFailing",
        aggregate("count", f"{select(names.POLICY_LAST_RELOAD.name)} == 0", *RELEASE),
        "1m",
        WARNING,
        "A changed policy file is rejected",
        "Replicas of {{ $labels.job }} that reject the policy file: {{ $value }}. They continue "
        "with the previous policies. Their logs contain the line and the fix.",
        (HOLDS, "Last policy reload"),
    )

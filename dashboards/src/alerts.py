"""What somebody has to know of: broken limits, a store that is away, policies, missing metrics."""

from collections.abc import Iterator
from typing import Final

import links
from alert import PAGE, TICKET, Alert
from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from promql import RELEASE, by, one_of, total
from recordings import DECISIONS, DEGRADED, NEAR_LIMIT, SHORTEST, recorded, share

MUCH: Final = "0.2"
"""Share of a policy's decisions from which on somebody looks at it."""
SEEN: Final = "0.01"
"""Share of checks without the shared limit; what is less and lasts is for its error budget."""
_BY_POLICY: Final = (*RELEASE, names.POLICY)


def limits() -> Iterator[Alert]:
    """Return the alerts about what policies let in and refuse."""
    yield Alert(
        "FleetlimitOvershoot",
        f"{by('max', _BY_POLICY, recorded(names.AUDIT_OVERSHOOT.name))} > 0",
        "0m",
        PAGE,
        "A limit was exceeded",
        "Policy {{ $labels.policy }} of {{ $labels.job }} let in {{ $value }} units more than it "
        "permits to one caller.",
        (links.HOLDS, "Overshoot by policy"),
    )
    denied = recorded(DECISIONS, one_of(names.OUTCOME, Outcome.DENIED))
    decided = recorded(DECISIONS, one_of(names.OUTCOME, Outcome.ALLOWED, Outcome.DENIED))
    yield Alert(
        "FleetlimitPolicyDenying",
        f"{total(denied, *_BY_POLICY)}\n/ {total(decided, *_BY_POLICY)}\n> {MUCH}",
        "1h",
        TICKET,
        "A policy refuses many requests for long",
        "Policy {{ $labels.policy }} of {{ $labels.job }} refuses "
        "{{ $value | humanizePercentage }} of what it decides.",
        (links.THROTTLED, "Denied share by policy"),
    )
    allowed = total(recorded(DECISIONS, one_of(names.OUTCOME, Outcome.ALLOWED)), *_BY_POLICY)
    yield Alert(
        "FleetlimitNearLimit",
        f"{recorded(NEAR_LIMIT)}\n/ on ({', '.join(_BY_POLICY)}) group_left () {allowed}\n> {MUCH}",
        "1h",
        TICKET,
        "Callers of a tier are near their limit for long",
        "{{ $value | humanizePercentage }} of what policy {{ $labels.policy }} of "
        "{{ $labels.job }} lets in leaves callers of tier {{ $labels.tier }} at most a fifth of "
        "their limit.",
        (links.THROTTLED, "Near the limit by policy and tier"),
    )


def store() -> Iterator[Alert]:
    """Return the alerts about the store and the way to it."""
    breaker = recorded(names.BREAKER_OPEN.name)
    all_open = by("min", RELEASE, breaker)
    yield Alert(
        "FleetlimitStoreUnreachable",
        f"{all_open} == 1",
        "30s",
        PAGE,
        "No replica reaches the store",
        "All replicas of {{ $labels.job }} decide without the store, each policy as its "
        "on_store_error says.",
        (links.HEALTHY, "Breaker"),
    )
    yield Alert(
        "FleetlimitBreakerOpen",
        f"{breaker} == 1\nand on ({', '.join(RELEASE)}) {all_open} == 0",
        "2m",
        TICKET,
        "A replica does not reach the store, while others do",
        "{{ $labels.pod }} of {{ $labels.job }} decides without the store.",
        (links.HEALTHY, "Breaker"),
    )
    yield Alert(
        "FleetlimitDegraded",
        f"{recorded(share(DEGRADED, SHORTEST))} > {SEEN}",
        "15m",
        TICKET,
        "Requests are decided without the shared limit for long",
        "{{ $value | humanizePercentage }} of the checks of {{ $labels.job }} are decided without "
        "the shared limit.",
        (links.HEALTHY, "Decided without the store"),
    )
    lost = f"increase({recorded(names.STORE_STATE_LOST.name)}[10m])"
    yield Alert(
        "FleetlimitStateLost",
        f"{by('max', RELEASE, lost)} > 0",
        "0m",
        TICKET,
        "The store came back without its state",
        "Every caller of {{ $labels.job }} began with a full bucket again.",
        (links.HEALTHY, "Store: lost state and changed servers"),
    )


def policies() -> Iterator[Alert]:
    """Return the alerts about the policies in force."""
    digests = by("count", (*RELEASE, names.DIGEST), recorded(names.POLICY_INFO.name))
    yield Alert(
        "FleetlimitReplicasDisagree",
        f"{by('count', RELEASE, digests)} > 1",
        "5m",
        PAGE,
        "Replicas serve different policies",
        "The replicas of {{ $labels.job }} have {{ $value }} sets of policies in force.",
        (links.HOLDS, "Pods by policy set"),
    )
    rejected = f"{recorded(names.POLICY_LAST_RELOAD.name)} == 0"
    yield Alert(
        "FleetlimitReloadFailing",
        by("count", RELEASE, rejected),
        "1m",
        TICKET,
        "A changed policy file is not taken",
        "Replicas of {{ $labels.job }} that reject the policy file and serve the last good one: "
        "{{ $value }}. Their logs have the line and the fix.",
        (links.HOLDS, "Last reload"),
    )


def metrics() -> Iterator[Alert]:
    """Return the alert about the other alerts."""
    yield Alert(
        "FleetlimitMetricsMissing",
        f"absent({recorded(names.BUILD_INFO.name)})",
        "5m",
        PAGE,
        "There are no metrics of Fleetlimit",
        "Prometheus finds no replica{{ with $labels.job }} of {{ . }}{{ end }}, so no other alert "
        "can fire.",
        (links.FLEET, "Replicas"),
    )

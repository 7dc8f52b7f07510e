"""Every name that Fleetlimit shows to an operator: metrics, labels, span attributes, log events.

Labels are bounded by the policy file and the code. An identity, a key or an address is never one.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleetlimit.core.decision import Outcome, Source


class MetricType(StrEnum):
    """What a metric is to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric's name as it is written in a query, and what it means.

    Args:
        name: Name, with the `_total` of a counter.
        type: Counter, gauge or histogram.
        help: One sentence for people.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram, in the metric's unit.
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query can ask for."""
        if self.type is MetricType.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.name,)


POLICY: Final = "policy"
OUTCOME: Final = "outcome"
SOURCE: Final = "source"
ROUTE: Final = "route"
TIER: Final = "tier"
LIMIT: Final = "limit"
RESULT: Final = "result"
ERROR_TYPE: Final = "error_type"
DIGEST: Final = "digest"
VERSION: Final = "version"

OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)
SOURCES: Final = tuple(source.value for source in Source)
SUCCESS: Final = "success"
FAILURE: Final = "failure"
RELOAD_RESULTS: Final = (SUCCESS, FAILURE)
NO_ROUTE: Final = "(none)"
"""The route of a request that no route matched."""
NO_TIER: Final = "none"
"""The tier of a caller who has none."""
OTHER_TIER: Final = "other"
"""Stands for every tier that no policy in force names: credentials may hold any."""

CHECK_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
"""Seconds. A decision without a store call is below the first bound, a call to a near store takes
0.25 to 5 ms, and store timeouts are tens of milliseconds: 250 ms is above any of them."""
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Seconds. uvloop's timers tell no less than 1 ms apart."""
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Calls, up to the largest pipeline there is."""

CHECKS: Final = MetricSpec(
    "fleetlimit_checks_total",
    MetricType.COUNTER,
    "Requests checked, once each, by what became of them.",
    (OUTCOME,),
)
DECISIONS: Final = MetricSpec(
    "fleetlimit_decisions_total",
    MetricType.COUNTER,
    "Policies that let a request in or refused it; of a refused request only those that refused.",
    (POLICY, OUTCOME),
)
DENIALS: Final = MetricSpec(
    "fleetlimit_denials_total",
    MetricType.COUNTER,
    "Policies that refused a request, or would have in shadow, by the request's route and tier.",
    (POLICY, ROUTE, TIER, OUTCOME),
)
NEAR_LIMIT: Final = MetricSpec(
    "fleetlimit_near_limit_total",
    MetricType.COUNTER,
    "Requests let in that left at most a fifth of one of the policy's limits.",
    (POLICY, TIER),
)
CHECK_DURATION: Final = MetricSpec(
    "fleetlimit_check_duration_seconds",
    MetricType.HISTOGRAM,
    "Time taken to decide about a request, by where the answer came from.",
    (SOURCE,),
    CHECK_BUCKETS,
)
DENIAL_CACHE_HITS: Final = MetricSpec(
    "fleetlimit_denial_cache_hits_total",
    MetricType.COUNTER,
    "Requests refused without a store call, because their time to retry had not come.",
)
DENIALS_SUPPRESSED: Final = MetricSpec(
    "fleetlimit_denials_suppressed_total",
    MetricType.COUNTER,
    "Denials without a log line of their own, because a flood is sampled.",
)
STORE_ERRORS: Final = MetricSpec(
    "fleetlimit_store_errors_total",
    MetricType.COUNTER,
    "Calls to the store that failed.",
    (ERROR_TYPE,),
)
COMMON_STORE_ERRORS: Final = ("connection", "timeout")
"""Counted from 0: Prometheus sees no growth in a series that begins with its first error."""
STORE_STATE_LOST: Final = MetricSpec(
    "fleetlimit_store_state_lost_total",
    MetricType.COUNTER,
    "Times that the store came back without its state, so that limits started anew.",
)
STORE_SERVER_CHANGES: Final = MetricSpec(
    "fleetlimit_store_server_changes_total",
    MetricType.COUNTER,
    "Times that another server answered for the store, or the same one after a restart, with the "
    "state, of which the last moment may be missing.",
)
STORE_BATCH_SIZE: Final = MetricSpec(
    "fleetlimit_store_batch_size",
    MetricType.HISTOGRAM,
    "Calls that travelled to the store in one pipeline: checks, corrections and heartbeats.",
    buckets=BATCH_BUCKETS,
)
BREAKER_OPEN: Final = MetricSpec(
    "fleetlimit_breaker_open",
    MetricType.GAUGE,
    "1 while the store is not asked because it failed, 0 otherwise.",
)
REPLICAS: Final = MetricSpec(
    "fleetlimit_replicas",
    MetricType.GAUGE,
    "Live replicas as the store last said, 0 before it did.",
)
POLICIES_LOADED: Final = MetricSpec(
    "fleetlimit_policies_loaded",
    MetricType.GAUGE,
    "Policies in force.",
)
POLICY_GENERATION: Final = MetricSpec(
    "fleetlimit_policy_generation",
    MetricType.GAUGE,
    "Number of the set of policies in force, growing with each set loaded by this process.",
)
POLICY_INFO: Final = MetricSpec(
    "fleetlimit_policy_info",
    MetricType.GAUGE,
    "Always 1; the digest is equal on all replicas that serve the same policies.",
    (DIGEST,),
)
POLICY_LIMIT: Final = MetricSpec(
    "fleetlimit_policy_limit",
    MetricType.GAUGE,
    "Units per window that a policy allows.",
    (POLICY, LIMIT),
)
POLICY_WINDOW: Final = MetricSpec(
    "fleetlimit_policy_window_seconds",
    MetricType.GAUGE,
    "Length of the window of a policy's limit.",
    (POLICY, LIMIT),
)
POLICY_RELOADS: Final = MetricSpec(
    "fleetlimit_policy_reloads_total",
    MetricType.COUNTER,
    "Sets of policies that took effect or were rejected, the first one included.",
    (RESULT,),
)
POLICY_LAST_RELOAD: Final = MetricSpec(
    "fleetlimit_policy_last_reload_successful",
    MetricType.GAUGE,
    "0 while the policy file that was read last is rejected and the one before serves on, else 1.",
)
AUDIT_OVERSHOOT: Final = MetricSpec(
    "fleetlimit_audit_overshoot",
    MetricType.GAUGE,
    "Units let in beyond a limit by all replicas together, for the audited caller with the most, "
    "within the last 5 minutes.",
    (POLICY,),
)
AUDIT_KEYS: Final = MetricSpec(
    "fleetlimit_audit_keys",
    MetricType.GAUGE,
    "Callers whose sums over all replicas this replica compares with the policy; 0 on all but one.",
    (POLICY,),
)
AUDIT_WINDOWS: Final = MetricSpec(
    "fleetlimit_audit_windows_total",
    MetricType.COUNTER,
    "Windows of a few seconds that were compared, one for each audited caller and limit.",
    (POLICY,),
)
AUDIT_ADMITTED: Final = MetricSpec(
    "fleetlimit_audit_admitted_units_total",
    MetricType.COUNTER,
    "Units that this replica let in for audited callers, less those given back.",
    (POLICY,),
)
AUDIT_PERMITTED: Final = MetricSpec(
    "fleetlimit_audit_permitted_units_total",
    MetricType.COUNTER,
    "Units that the limits permit to audited callers; counted by the replica that compares.",
    (POLICY,),
)
EVENT_LOOP_LAG: Final = MetricSpec(
    "fleetlimit_event_loop_lag_seconds",
    MetricType.HISTOGRAM,
    "How late the event loop ran a timer.",
    buckets=LAG_BUCKETS,
)
SPANS_DROPPED: Final = MetricSpec(
    "fleetlimit_spans_dropped_total",
    MetricType.COUNTER,
    "Spans that were not delivered, because the collector was slow or away.",
)
BUILD_INFO: Final = MetricSpec(
    "fleetlimit_build_info",
    MetricType.GAUGE,
    "Always 1; the version that is running.",
    (VERSION,),
)

METRICS: Final = (
    CHECKS,
    DECISIONS,
    DENIALS,
    NEAR_LIMIT,
    CHECK_DURATION,
    DENIAL_CACHE_HITS,
    DENIALS_SUPPRESSED,
    STORE_ERRORS,
    STORE_STATE_LOST,
    STORE_SERVER_CHANGES,
    STORE_BATCH_SIZE,
    BREAKER_OPEN,
    REPLICAS,
    POLICIES_LOADED,
    POLICY_GENERATION,
    POLICY_INFO,
    POLICY_LIMIT,
    POLICY_WINDOW,
    POLICY_RELOADS,
    POLICY_LAST_RELOAD,
    AUDIT_OVERSHOOT,
    AUDIT_KEYS,
    AUDIT_WINDOWS,
    AUDIT_ADMITTED,
    AUDIT_PERMITTED,
    EVENT_LOOP_LAG,
    SPANS_DROPPED,
    BUILD_INFO,
)

TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"

SPAN_CHECK: Final = "fleetlimit.check"
ATTR_POLICIES: Final = "rate_limiting.policy"
ATTR_OUTCOME: Final = "rate_limiting.result"
ATTR_SOURCE: Final = "fleetlimit.source"
ATTR_RETRY_AFTER_MS: Final = "fleetlimit.retry_after_ms"
ATTR_DB_SYSTEM: Final = "db.system.name"
ATTR_DB_OPERATION: Final = "db.operation.name"
ATTR_DB_PROCEDURE: Final = "db.stored_procedure.name"

LOG_DENIED: Final = "request.denied"
LOG_SHADOW_DENIED: Final = "request.shadow_denied"
LOG_FAIL_CLOSED: Final = "request.fail_closed"
LOG_STORE_UNAVAILABLE: Final = "store.unavailable"
LOG_STORE_REFUSED: Final = "store.refused"
LOG_BREAKER_OPEN: Final = "store.breaker.open"
LOG_BREAKER_CLOSED: Final = "store.breaker.closed"
LOG_STATE_LOST: Final = "store.state_lost"
LOG_SERVER_CHANGED: Final = "store.server_changed"
LOG_REPLICAS: Final = "replicas.changed"
LOG_POLICIES_LOADED: Final = "policies.loaded"
LOG_POLICIES_REJECTED: Final = "policies.rejected"
LOG_OVERSHOOT: Final = "audit.overshoot"

SUPPRESSED: Final = ".suppressed"
"""Added to the name of a sampled event for the line that says how many were not written."""
OTHERS: Final = "(others)"
"""Stands for the keys that the bounded table of sampled events has no room for."""

"""Names of all metrics, labels and span attributes, and of the log events of observers.

The values of a label are bounded by the policy file and the code. An identity, a key or an address
is never a label.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.limiter import log_sampler


class MetricType(StrEnum):
    """Metric type of Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """Specification of a metric.

    Args:
        name: Name as in a query, with the `_total` of a counter.
        type: Counter, gauge or histogram.
        help: Help text, one sentence.
        labels: Names of the labels, in order.
        buckets: Upper bounds of a histogram's buckets, in the unit of the metric.
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names of the series that a query can select."""
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
STATE: Final = "state"
REASON: Final = "reason"
KEY_SECRET: Final = "key_secret"  # noqa: S105 - the name of a label
VERSION: Final = "version"

OUTCOMES: Final = tuple(outcome.value for outcome in Outcome)
SOURCES: Final = tuple(source.value for source in Source)
SUCCESS: Final = "success"
FAILURE: Final = "failure"
RELOAD_RESULTS: Final = (SUCCESS, FAILURE)
NO_ROUTE: Final = "(none)"
"""`route` of a request that matches no route."""
NO_TIER: Final = "none"
"""`tier` of a caller without a tier."""
OTHER_TIER: Final = "other"
"""`tier` of a caller whose tier no active policy names; credentials may contain any text."""

CUSTOM_TIER: Final = "custom"
"""`tier` of a caller with limits of its own under the policy."""
OTHER_POLICY: Final = "other"
"""`policy` of the policies beyond the bound of labels; code can make policies without limit."""

CHECK_BUCKETS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)
"""Seconds. A decision without a store call takes less than the first bound, a call to a nearby
store 0.25 to 5 ms, and a store timeout tens of milliseconds, which is below 250 ms."""
LAG_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""Seconds. The timers of uvloop have a resolution of 1 ms."""
BATCH_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Calls, up to the maximum size of a pipeline."""

CHECKS: Final = MetricSpec(
    "fleetlimit_checks_total",
    MetricType.COUNTER,
    "Checked requests by outcome; each request is counted once.",
    (OUTCOME,),
)
DECISIONS: Final = MetricSpec(
    "fleetlimit_decisions_total",
    MetricType.COUNTER,
    "Decisions by policy; for a rejected request only those of the policies that rejected it.",
    (POLICY, OUTCOME),
)
DENIALS: Final = MetricSpec(
    "fleetlimit_denials_total",
    MetricType.COUNTER,
    "Denials by policy, those of shadow policies included, by route and tier of the request.",
    (POLICY, ROUTE, TIER, OUTCOME),
)
ADMISSIONS: Final = MetricSpec(
    "fleetlimit_admissions_total",
    MetricType.COUNTER,
    "Requests that a policy admitted, by tier of the caller.",
    (POLICY, TIER),
)
NEAR_LIMIT: Final = MetricSpec(
    "fleetlimit_near_limit_total",
    MetricType.COUNTER,
    "Admissions that left 20 % or less of one of the policy's limits.",
    (POLICY, TIER),
)
LOCAL_ADMISSIONS: Final = MetricSpec(
    "fleetlimit_local_admissions_total",
    MetricType.COUNTER,
    "Requests that a policy admitted from this replica's share of the limit while the store was "
    "unavailable; the audit does not count them.",
    (POLICY,),
)
CHECK_DURATION: Final = MetricSpec(
    "fleetlimit_check_duration_seconds",
    MetricType.HISTOGRAM,
    "Duration of a check by source of the decision.",
    (SOURCE,),
    CHECK_BUCKETS,
)
DENIAL_CACHE_HITS: Final = MetricSpec(
    "fleetlimit_denial_cache_hits_total",
    MetricType.COUNTER,
    "Requests rejected from the denial cache, without a store call.",
)
DENIALS_SUPPRESSED: Final = MetricSpec(
    "fleetlimit_denials_suppressed_total",
    MetricType.COUNTER,
    "Denials without a log line, because the log is rate limited.",
)
CANCELLED_CHECKS: Final = MetricSpec(
    "fleetlimit_cancelled_checks_total",
    MetricType.COUNTER,
    "Checks whose request was cancelled while the store decided; their units may be spent.",
)
USAGE_UNREAD: Final = MetricSpec(
    "fleetlimit_usage_unread_total",
    MetricType.COUNTER,
    "Answers of large language models whose tokens were not read, so that the estimate stays "
    "spent, by reason.",
    (REASON,),
)
CALLER_LIMITS_FAILURES: Final = MetricSpec(
    "fleetlimit_caller_limits_failures_total",
    MetricType.COUNTER,
    "Failed calls of functions of the app that return the limits of a caller; the last known "
    "limits were used, or those of the policy.",
)
STORE_ERRORS: Final = MetricSpec(
    "fleetlimit_store_errors_total",
    MetricType.COUNTER,
    "Failed store calls by type of error.",
    (ERROR_TYPE,),
)
COMMON_STORE_ERRORS: Final = ("connection", "timeout")
"""Exported from 0: Prometheus sees no increase in a series that starts with its first error."""
STORE_STATE_LOST: Final = MetricSpec(
    "fleetlimit_store_state_lost_total",
    MetricType.COUNTER,
    "Times that the store came back without its state, which resets all limits.",
)
STORE_SERVER_CHANGES: Final = MetricSpec(
    "fleetlimit_store_server_changes_total",
    MetricType.COUNTER,
    "Restarts and failovers of the store's server that kept the state; the last writes before one "
    "may be lost.",
)
STORE_BATCH_SIZE: Final = MetricSpec(
    "fleetlimit_store_batch_size",
    MetricType.HISTOGRAM,
    "Calls per pipeline to the store: checks, adjustments and heartbeats.",
    buckets=BATCH_BUCKETS,
)
BREAKER_OPEN: Final = MetricSpec(
    "fleetlimit_breaker_open",
    MetricType.GAUGE,
    "1 while a circuit breaker is open, and checks do not call the store, or in a Cluster one of "
    "its servers; else 0.",
)
REPLICAS: Final = MetricSpec(
    "fleetlimit_replicas",
    MetricType.GAUGE,
    "Live replicas as the store last reported, 0 before its first report.",
)
STORE_INFO: Final = MetricSpec(
    "fleetlimit_store_info",
    MetricType.GAUGE,
    "Always 1; replicas that share their limits have the same identifier of the store's state, and "
    "the same fingerprint of the key secret.",
    (STATE, KEY_SECRET),
)
POLICIES_LOADED: Final = MetricSpec(
    "fleetlimit_policies_loaded",
    MetricType.GAUGE,
    "Active policies.",
)
POLICY_GENERATION: Final = MetricSpec(
    "fleetlimit_policy_generation",
    MetricType.GAUGE,
    "Number of the active policy set, increased by each set that this process loads.",
)
POLICY_INFO: Final = MetricSpec(
    "fleetlimit_policy_info",
    MetricType.GAUGE,
    "Always 1; replicas with the same policies have the same digest.",
    (DIGEST,),
)
POLICY_LIMIT: Final = MetricSpec(
    "fleetlimit_policy_limit",
    MetricType.GAUGE,
    "Units per window that a policy's limit permits.",
    (POLICY, LIMIT),
)
POLICY_WINDOW: Final = MetricSpec(
    "fleetlimit_policy_window_seconds",
    MetricType.GAUGE,
    "Window of a policy's limit.",
    (POLICY, LIMIT),
)
POLICY_RELOADS: Final = MetricSpec(
    "fleetlimit_policy_reloads_total",
    MetricType.COUNTER,
    "Policy sets that were activated or rejected, the first one included.",
    (RESULT,),
)
POLICY_LAST_RELOAD: Final = MetricSpec(
    "fleetlimit_policy_last_reload_successful",
    MetricType.GAUGE,
    "0 while the last file read is rejected and the previous policies stay active, else 1.",
)
AUDIT_OVERSHOOT: Final = MetricSpec(
    "fleetlimit_audit_overshoot",
    MetricType.GAUGE,
    "Units that all replicas together admitted above a limit in the last 5 minutes, for the "
    "audited caller with the most.",
    (POLICY,),
)
AUDIT_CALLERS: Final = MetricSpec(
    "fleetlimit_audit_callers",
    MetricType.GAUGE,
    "Audited callers whose usage this replica compares with the limits; 0 on all replicas but one.",
    (POLICY,),
)
AUDIT_INTERVALS: Final = MetricSpec(
    "fleetlimit_audit_intervals_total",
    MetricType.COUNTER,
    "Compared intervals of a few seconds, one for each audited caller and limit.",
    (POLICY,),
)
AUDIT_ADMITTED: Final = MetricSpec(
    "fleetlimit_audit_admitted_units_total",
    MetricType.COUNTER,
    "Units that this replica admitted for audited callers, less refunds.",
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
    "Delay of a timer of the event loop.",
    buckets=LAG_BUCKETS,
)
SPANS_DROPPED: Final = MetricSpec(
    "fleetlimit_spans_dropped_total",
    MetricType.COUNTER,
    "Spans that were not delivered, because the collector was slow or unavailable.",
)
BUILD_INFO: Final = MetricSpec(
    "fleetlimit_build_info",
    MetricType.GAUGE,
    "Always 1; the running version.",
    (VERSION,),
)

METRICS: Final = (
    CHECKS,
    DECISIONS,
    DENIALS,
    ADMISSIONS,
    NEAR_LIMIT,
    LOCAL_ADMISSIONS,
    CHECK_DURATION,
    DENIAL_CACHE_HITS,
    DENIALS_SUPPRESSED,
    CANCELLED_CHECKS,
    CALLER_LIMITS_FAILURES,
    USAGE_UNREAD,
    STORE_ERRORS,
    STORE_STATE_LOST,
    STORE_SERVER_CHANGES,
    STORE_BATCH_SIZE,
    BREAKER_OPEN,
    REPLICAS,
    STORE_INFO,
    POLICIES_LOADED,
    POLICY_GENERATION,
    POLICY_INFO,
    POLICY_LIMIT,
    POLICY_WINDOW,
    POLICY_RELOADS,
    POLICY_LAST_RELOAD,
    AUDIT_OVERSHOOT,
    AUDIT_CALLERS,
    AUDIT_INTERVALS,
    AUDIT_ADMITTED,
    AUDIT_PERMITTED,
    EVENT_LOOP_LAG,
    SPANS_DROPPED,
    BUILD_INFO,
)

TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"

SPAN_CHECK: Final = "fleetlimit.check"
ATTR_POLICIES: Final = "fleetlimit.policies"
ATTR_OUTCOME: Final = "fleetlimit.outcome"
ATTR_SOURCE: Final = "fleetlimit.source"
ATTR_RETRY_AFTER_MS: Final = "fleetlimit.retry_after_ms"
ATTR_DB_SYSTEM: Final = "db.system.name"

NODE: Final = "node"
"""Field of log lines with the address of a Cluster's server."""

LOG_DENIED: Final = "request.denied"
LOG_SHADOW_DENIED: Final = "request.shadow_denied"
LOG_FAIL_CLOSED: Final = "request.fail_closed"
LOG_USAGE_UNREAD: Final = "usage.unread"
LOG_STORE_UNAVAILABLE: Final = "store.unavailable"
LOG_STORE_REJECTED: Final = "store.rejected"
LOG_BREAKER_OPEN: Final = "store.breaker.open"
LOG_BREAKER_CLOSED: Final = "store.breaker.closed"
LOG_STATE_LOST: Final = "store.state_lost"
LOG_SERVER_CHANGED: Final = "store.server_changed"
LOG_REPLICAS: Final = "replicas.changed"
LOG_KEY_SECRETS: Final = "replicas.key_secrets"
LOG_POLICIES_LOADED: Final = "policies.loaded"
LOG_POLICIES_REJECTED: Final = "policies.rejected"
LOG_OVERSHOOT: Final = "audit.overshoot"
LOG_BUCKETS_RESET: Final = "buckets.reset"
LOG_ADMIN_REJECTED: Final = "admin.rejected"
LOG_ADMIN_HOST_REJECTED: Final = "admin.host_rejected"
LOG_ROUTES: Final = "routes.found"
LOG_NO_ROUTE_LIMITED: Final = "routes.unlimited"
LOG_ROUTE_LIMITED: Final = "route.limited"
LOG_ROUTE_UNLIMITED: Final = "route.unlimited"
LOG_NO_EXCEPTION_HANDLER: Final = "exception_handlers.missing"
LOG_ROUTE_REWRITTEN: Final = "route.rewritten"
LOG_MIDDLEWARE_REWRITES: Final = "middleware.rewrites"
LOG_POLICY_UNUSED: Final = "policy.unused"
LOG_SERVICE_FAILED: Final = "service.failed"
LOG_COST_TOO_LARGE: Final = "policy.cost_too_large"
LOG_ESTIMATE_KEPT: Final = "policy.estimate_kept"
LOG_PREFETCH_UNUSED: Final = "policy.prefetch_unused"

SUPPRESSED: Final = log_sampler.SUPPRESSED

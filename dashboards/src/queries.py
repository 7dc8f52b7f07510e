"""PromQL queries that several panels share, or that are more than one rate or aggregation."""

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry import names
from promql import (
    POD,
    RANGE,
    RATE_INTERVAL,
    RELEASE,
    SELECTED_POLICY,
    STORES,
    aggregate,
    changed_state,
    increase,
    max_over,
    of_fleetlimit,
    one_of,
    or_zero,
    rate,
    ratio,
    series,
    total,
)

_DENIED = one_of(names.OUTCOME, Outcome.DENIED)
_FAILED = one_of(names.OUTCOME, Outcome.FAIL_OPEN, Outcome.FAIL_CLOSED)
_INSTANCE = "instance"

# Checks and denials


def checks(*labels: str) -> str:
    """Return checked requests per second."""
    return total(rate(names.CHECKS.name), *labels)


def denied_share(*labels: str) -> str:
    """Return the fraction of checked requests that is denied."""
    return ratio(total(rate(names.CHECKS.name, _DENIED), *labels), checks(*labels))


def denials() -> str:
    """Return denied requests per second."""
    return total(rate(names.CHECKS.name, _DENIED))


def denials_by_policy() -> str:
    """Return denials per second of each policy."""
    return decisions_by_policy(_DENIED)


def decisions_by_policy(*matchers: str) -> str:
    """Return decisions per second of each policy."""
    return total(rate(names.DECISIONS.name, SELECTED_POLICY, *matchers), names.POLICY)


def denying_policies() -> str:
    """Return the number of policies with denials."""
    return or_zero(f"count({denials_by_policy()} > 0)")


def denials_by(label: str) -> str:
    """Return denials per second by route or tier, of those with denials in the time range."""
    matchers = (SELECTED_POLICY, _DENIED)
    denied = total(rate(names.DENIALS.name, *matchers), label)
    # Routes that deny nothing have series too: they would fill the legend.
    return or_zero(
        f"{denied} and {total(increase(names.DENIALS.name, *matchers), label)} > 0", label
    )


def denied_share_by_tier() -> str:
    """Return the fraction of each tier's requests that each policy denies."""
    labels = (names.POLICY, names.TIER)
    denied = total(rate(names.DENIALS.name, SELECTED_POLICY, _DENIED), *labels)
    admitted = total(rate(names.ADMISSIONS.name, SELECTED_POLICY), *labels)
    return ratio(denied, f"{denied} + {admitted}")


def denial_table(outcome: Outcome) -> str:
    """Return the denials over the time range by policy, route and tier, largest first."""
    matched = increase(names.DENIALS.name, SELECTED_POLICY, one_of(names.OUTCOME, outcome))
    return f"sort_desc({total(matched, names.POLICY, names.ROUTE, names.TIER)} > 0)"


def shadow_denials(*labels: str) -> str:
    """Return denials per second of policies in shadow mode."""
    shadow = one_of(names.OUTCOME, Outcome.SHADOW_DENIED)
    return total(rate(names.DECISIONS.name, SELECTED_POLICY, shadow), *labels)


# Audit: admitted against permitted units


def audited(metric: str, *labels: str) -> str:
    """Return the per-second rate of an audit counter."""
    return total(rate(metric, SELECTED_POLICY), *labels)


def unexplained_overshoot(*labels: str) -> str:
    """Return the largest overshoot that no change of the store's state explains, in units."""
    return _overshoot("==", *labels)


def explained_overshoot(*labels: str) -> str:
    """Return the largest overshoot after the store lost its state or its server, in units."""
    return _overshoot("!=", *labels)


def _overshoot(comparison: str, *labels: str) -> str:
    found = max_over(names.AUDIT_OVERSHOOT.name, SELECTED_POLICY)
    by_policy = aggregate("max", found, *RELEASE, names.POLICY)
    # A factor and not `unless`, so that an audit without an overshoot has the value 0.
    factor = f"({changed_state()} {comparison} bool 0)"
    product = f"{by_policy} * on ({', '.join(RELEASE)}) group_left () {factor}"
    return aggregate("max", product, *labels)


def overshoot(*labels: str, over: str = RATE_INTERVAL) -> str:
    """Return the largest overshoot, in units."""
    return aggregate("max", max_over(names.AUDIT_OVERSHOOT.name, over=over), *labels)


def worst_overshoot() -> str:
    """Return the largest unexplained overshoot over the time range."""
    return f"max_over_time(({unexplained_overshoot()})[{RANGE}:{RATE_INTERVAL}])"


def local_admissions() -> str:
    """Return the requests that local shares admitted in the last five minutes, by policy."""
    admitted = series(names.LOCAL_ADMISSIONS.name, SELECTED_POLICY)
    return total(f"increase({admitted}[5m])", names.POLICY)


def overshooting_releases() -> str:
    """Return the number of releases with an overshoot over the time range."""
    found = overshoot(*RELEASE, over=RANGE)
    # `or_zero` would claim 0 for a release without an audit.
    return f"count({found} > 0) or on () 0 * count({found})"


def admitted_share_by_pod() -> str:
    """Return each pod's fraction of the admitted requests."""
    allowed = rate(names.DECISIONS.name, SELECTED_POLICY, one_of(names.OUTCOME, Outcome.ALLOWED))
    return f"{total(allowed, POD)} / on () group_left () clamp_min({total(allowed)}, 1e-9)"


# Replicas and policy sets


def releases() -> str:
    """Return the number of releases."""
    return f"count({_pods_by_release()})"


def serving_pods() -> str:
    """Return the number of pods that Prometheus scrapes successfully."""
    return f"sum({of_fleetlimit(series('up'))})"


def serving_pods_by_release() -> str:
    """Return the number of pods that Prometheus scrapes successfully, of each release."""
    return total(of_fleetlimit(series("up")), *RELEASE)


def most_replicas_counted() -> str:
    """Return the replica count of the pod that counts the most, summed over releases."""
    return total(aggregate("max", series(names.REPLICAS.name), *RELEASE))


def fewest_replicas_counted() -> str:
    """Return the replica count of the pod that counts the fewest, summed over releases."""
    return total(_fewest_replicas())


def uncounted_pods(*labels: str) -> str:
    """Return the number of pods that are missing from another pod's replica count."""
    scraped = aggregate("count", series(names.REPLICAS.name), *RELEASE)
    return total(f"clamp_min({scraped} - {_fewest_replicas()}, 0)", *labels)


def policy_sets() -> str:
    """Return the largest number of different policy sets in one release; 1 is healthy."""
    return f"max({policy_sets_by_release()})"


def policy_sets_by_release() -> str:
    """Return the number of different policy sets in each release."""
    digests = aggregate("count", series(names.POLICY_INFO.name), *RELEASE, names.DIGEST)
    return aggregate("count", digests, *RELEASE)


def releases_with_different_policies() -> str:
    """Return the number of releases whose pods serve different policy sets."""
    return or_zero(f"count({policy_sets_by_release()} > 1)")


def pods_with_a_rejected_file(*labels: str) -> str:
    """Return the number of pods that rejected the last policy file."""
    return total(f"1 - {series(names.POLICY_LAST_RELOAD.name)}", *labels)


# Store calls and the circuit breaker


def open_breakers() -> str:
    """Return the number of pods whose circuit breaker is open."""
    return f"sum({max_over(names.BREAKER_OPEN.name)})"


def breaker(*labels: str) -> str:
    """Return 1 if a circuit breaker is open, else 0."""
    return aggregate("max", max_over(names.BREAKER_OPEN.name), *labels)


def releases_with_an_open_breaker() -> str:
    """Return the number of releases with an open circuit breaker."""
    return or_zero(f"count({breaker(*RELEASE)} > 0)")


def degraded_share(*labels: str) -> str:
    """Return the fraction of checks that is decided without the shared limit."""
    degraded = f"({decided_locally(*labels)} + {decided_by_error_mode(*labels)})"
    return ratio(degraded, checks(*labels))


def decided_locally(*labels: str) -> str:
    """Return checks per second that are decided by a pod's local share of the limit."""
    local = one_of(names.SOURCE, Source.LOCAL)
    return total(rate(f"{names.CHECK_DURATION.name}_count", local), *labels)


def decided_by_error_mode(*labels: str) -> str:
    """Return checks per second that are admitted or rejected by `on_store_error`."""
    return total(rate(names.CHECKS.name, _FAILED), *labels)


def store_errors() -> str:
    """Return failed store calls per second."""
    return or_zero(total(rate(names.STORE_ERRORS.name)))


def store_errors_by_type() -> str:
    """Return failed store calls per second by error type."""
    return or_zero(total(rate(names.STORE_ERRORS.name), names.ERROR_TYPE), names.ERROR_TYPE)


def store_errors_by_release() -> str:
    """Return failed store calls per second of each release."""
    return f"({total(rate(names.STORE_ERRORS.name), *RELEASE)} or 0 * {_pods_by_release()})"


def mean_batch_size() -> str:
    """Return the mean number of store calls per pipeline."""
    calls, pipelines = (
        total(rate(f"{names.STORE_BATCH_SIZE.name}_{part}")) for part in ("sum", "count")
    )
    # Without calls the mean is NaN. The comparison drops NaN.
    return f"{calls} / {pipelines} >= 0"


def pods_with_a_change(counter: str) -> str:
    """Return the number of pods whose counter has just changed."""
    return or_zero(f"count({_changes(counter)} > 0)")


# Redis or Valkey, from redis_exporter


def store_reachable() -> str:
    """Return 1 if every exporter reaches its server, else 0."""
    return f"min({series('redis_up', of=STORES)})"


def highest_memory_use() -> str:
    """Return the used fraction of `maxmemory` of the fullest server that has one."""
    used, limit = (memory_by_instance(kind) for kind in ("used", "max"))
    return f"max({used} / ({limit} > 0))"


def memory_by_instance(kind: str) -> str:
    """Return the `used` or `max` memory of each server, in bytes; `max` is 0 if unlimited."""
    return aggregate("max", series(f"redis_memory_{kind}_bytes", of=STORES), _INSTANCE)


def primaries() -> str:
    """Return 1 for each server that is a primary, and 0 for each replica."""
    primary = series("redis_instance_info", one_of("role", "master"), of=STORES)
    servers = aggregate("count", series("redis_instance_info", of=STORES), _INSTANCE)
    return f"{aggregate('max', primary, _INSTANCE)} or 0 * {servers}"


# Events that every dashboard marks in its graphs


def policy_reloads() -> str:
    """Return the releases in which policies were reloaded or rejected."""
    return f"{total(_changes(names.POLICY_RELOADS.name), *RELEASE, names.RESULT)} > 0"


def store_state_losses() -> str:
    """Return the releases whose store lost its state."""
    return f"{total(_changes(names.STORE_STATE_LOST.name), *RELEASE)} > 0"


def store_outages() -> str:
    """Return the releases with an open circuit breaker."""
    return f"{breaker(*RELEASE)} > 0"


def process_starts() -> str:
    """Return the start time of each pod, in milliseconds since the epoch."""
    return f"1000 * ({of_fleetlimit(series('process_start_time_seconds'))})"


def _changes(counter: str) -> str:
    return f"changes({series(counter)}[{RATE_INTERVAL}])"


def _pods_by_release() -> str:
    return aggregate("count", series(names.BUILD_INFO.name), *RELEASE)


def _fewest_replicas() -> str:
    # The maximum over time of each pod, because a pod that has just started counts 0.
    return aggregate("min", max_over(names.REPLICAS.name), *RELEASE)

"""Asks whether the limiter is healthy: its checks, its calls to the store, its pods."""

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry import names
from foreign import PROCESS_CPU, PROCESS_MEMORY
from promql import (
    POD,
    WINDOW,
    bucket,
    by,
    highest,
    increase,
    of_fleetlimit,
    one_of,
    or_zero,
    quantile,
    rate,
    ratio,
    series,
    total,
)

_DECIDED = f"{names.CHECK_DURATION.name}_count"
_LOCAL = one_of(names.SOURCE, Source.LOCAL)
_FAILED = one_of(names.OUTCOME, Outcome.FAIL_OPEN, Outcome.FAIL_CLOSED)


def check_duration_buckets() -> str:
    """Return the checks each second by how long they took."""
    return total(rate(bucket(names.CHECK_DURATION)), "le")


def check_duration(at: float, *labels: str) -> str:
    """Return a quantile of the time a check takes, by these labels."""
    return quantile(at, names.CHECK_DURATION, *labels)


def pods_without_the_store() -> str:
    """Return how many pods do not ask the store."""
    return f"sum({highest(names.BREAKER_OPEN.name)})"


def breaker_by_pod() -> str:
    """Return 1 for each pod that does not ask the store, and 0 for each that does."""
    return by("max", (POD,), highest(names.BREAKER_OPEN.name))


def share_without_the_store(*labels: str) -> str:
    """Return the part of the checks that is decided without the store, by these labels."""
    by_rule = total(rate(names.CHECKS.name, _FAILED), *labels)
    without = f"({decided_locally(*labels)} + {by_rule})"
    return ratio(without, total(rate(names.CHECKS.name), *labels))


def decided_locally(*labels: str) -> str:
    """Return the checks each second that are decided by a pod's share of the limit."""
    return total(rate(_DECIDED, _LOCAL), *labels)


def decided_by_rule() -> str:
    """Return the checks each second that are let in or refused because the store is away."""
    return total(rate(names.CHECKS.name, _FAILED), names.OUTCOME)


def decisions_by_source() -> str:
    """Return the checks each second by where the answer came from."""
    return total(rate(_DECIDED), names.SOURCE)


def store_errors() -> str:
    """Return the calls to the store that fail each second."""
    return or_zero(total(rate(names.STORE_ERRORS.name)))


def store_errors_by_type() -> str:
    """Return the calls to the store that fail each second, by why."""
    return or_zero(total(rate(names.STORE_ERRORS.name), names.ERROR_TYPE), names.ERROR_TYPE)


def cache_hits() -> str:
    """Return the denials each second that needed no store call."""
    return total(rate(names.DENIAL_CACHE_HITS.name))


def batch_size(at: float) -> str:
    """Return a quantile of the calls that travel to the store together."""
    return quantile(at, names.STORE_BATCH_SIZE)


def average_batch_size() -> str:
    """Return the mean number of calls that travel to the store together, where there were any."""
    calls = total(rate(f"{names.STORE_BATCH_SIZE.name}_sum"))
    # Nothing by nothing is NaN, which no comparison lets through.
    return f"{calls} / {total(rate(f'{names.STORE_BATCH_SIZE.name}_count'))} >= 0"


def state_lost() -> str:
    """Return how often the store came back without its state, in the time looked at."""
    return by("max", (), increase(names.STORE_STATE_LOST.name))


def pods_that_found_no_state() -> str:
    """Return how many pods found the store without its state a moment ago."""
    return _changed(names.STORE_STATE_LOST.name)


def pods_that_found_another_server() -> str:
    """Return how many pods found another server in the store's place a moment ago."""
    return _changed(names.STORE_SERVER_CHANGES.name)


def event_loop_lag(at: float, *labels: str) -> str:
    """Return a quantile of how late the event loops are, by these labels."""
    return quantile(at, names.EVENT_LOOP_LAG, *labels)


def cpu_by_pod() -> str:
    """Return the processor time that each pod uses each second."""
    return total(of_fleetlimit(rate(PROCESS_CPU)), POD)


def memory_by_pod() -> str:
    """Return the memory that each pod has."""
    return total(of_fleetlimit(series(PROCESS_MEMORY)), POD)


def spans_dropped() -> str:
    """Return the spans each second that no collector took."""
    return total(rate(names.SPANS_DROPPED.name))


def log_lines_held_back() -> str:
    """Return the denials each second that a sampled flood counts and does not write out."""
    return total(rate(names.DENIALS_SUPPRESSED.name))


def _changed(counter: str) -> str:
    return or_zero(f"count(changes({series(counter)}[{WINDOW}]) > 0)")

"""Asks for one figure of each release, or for how many releases there are of a kind."""

from fleetlimit.telemetry import names
from foreign import UP
from limit_queries import policy_sets_by_release
from promql import (
    RANGE,
    RELEASE,
    WINDOW,
    by,
    highest,
    of_fleetlimit,
    or_zero,
    or_zero_by_release,
    rate,
    series,
    total,
)


def releases() -> str:
    """Return how many releases have a pod."""
    return f"count({by('count', RELEASE, series(names.BUILD_INFO.name))})"


def pods() -> str:
    """Return how many pods of each release answer the scrape."""
    return total(of_fleetlimit(series(UP)), *RELEASE)


def overshoot(over: str = WINDOW) -> str:
    """Return the most units that each release let in beyond a limit."""
    return by("max", RELEASE, highest(names.AUDIT_OVERSHOOT.name, over=over))


def overshooting() -> str:
    """Return how many releases let in more than a limit, in the time looked at."""
    seen = overshoot(RANGE)
    # Where nothing is audited there is no figure, and no 0 either.
    return f"count({seen} > 0) or on () 0 * count({seen})"


def store_away() -> str:
    """Return 1 for each release of which a pod does not ask the store, and 0 for the others."""
    return by("max", RELEASE, highest(names.BREAKER_OPEN.name))


def without_the_store() -> str:
    """Return how many releases have a pod that does not ask the store."""
    return or_zero(f"count({store_away()} > 0)")


def store_errors() -> str:
    """Return the calls to the store that fail each second in each release."""
    return or_zero_by_release(total(rate(names.STORE_ERRORS.name), *RELEASE))


def with_different_policies() -> str:
    """Return how many releases have pods that serve different policies."""
    return or_zero(f"count({policy_sets_by_release()} > 1)")

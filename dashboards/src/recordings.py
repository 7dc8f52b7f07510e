"""Records what alerts and long graphs ask for again and again: rates of policies, shares of checks.

Long windows are summed up from recorded rates of five minutes, a few series of each release: their
cost does not grow with the number of pods.
"""

from collections.abc import Iterator
from typing import Final

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry import names
from promql import RELEASE, bucket, one_of, series, total

OF_RELEASE: Final = 'job!=""'
"""In every selector of a rule: all releases. The chart puts its own release in its place."""
OBJECTIVE_SECONDS: Final = 0.025
"""A bound of the histogram: half of the store's usual timeout. A near store takes 0.25 to 5 ms."""

SHORTEST: Final = "5m"
LONGER: Final = ("30m", "1h", "2h", "6h", "1d", "3d")

DECISIONS: Final = "policy:fleetlimit_decisions:rate5m"
NEAR_LIMIT: Final = "policy:fleetlimit_near_limit:rate5m"
CHECKS: Final = "job:fleetlimit_checks:rate5m"
DEGRADED: Final = "job:fleetlimit_checks_degraded"
"""Checks that were not decided by the shared limit."""
SLOW: Final = "job:fleetlimit_checks_slow"
"""Checks that took longer than the objective allows."""

Rule = dict[str, object]


def recorded(name: str, *matchers: str) -> str:
    """Select series in a rule."""
    return series(name, *matchers, of=OF_RELEASE)


def share(checks: str, window: str) -> str:
    """Return the name of the share of some checks in all of them.

    Args:
        checks: `DEGRADED` or `SLOW`.
        window: Over how long.
    """
    return f"{checks}:ratio_rate{window}"


def recordings() -> Iterator[Rule]:
    """Return the rules that record, each after those that it needs."""
    by_policy = (*RELEASE, names.POLICY)
    yield _record(DECISIONS, total(_rate(names.DECISIONS.name), *by_policy, names.OUTCOME))
    yield _record(NEAR_LIMIT, total(_rate(names.NEAR_LIMIT.name), *by_policy, names.TIER))
    yield _record(CHECKS, total(_rate(names.CHECKS.name), *RELEASE))
    yield _record(_part(DEGRADED), _degraded())
    yield _record(_part(SLOW), _slow())
    for checks in (DEGRADED, SLOW):
        part, whole = recorded(_part(checks)), recorded(CHECKS)
        # A share of nothing would be NaN.
        yield _record(share(checks, SHORTEST), f"{part} / ({whole} > 0)")
        for window in LONGER:
            parts, wholes = (f"sum_over_time({each}[{window}])" for each in (part, whole))
            yield _record(share(checks, window), f"{parts}\n/ ({wholes} > 0)")


def _part(checks: str) -> str:
    return f"{checks}:rate{SHORTEST}"


def _record(name: str, expression: str) -> Rule:
    return {"record": name, "expr": expression}


def _rate(name: str, *matchers: str) -> str:
    return f"rate({recorded(name, *matchers)}[{SHORTEST}])"


def _degraded() -> str:
    by_rule = _rate(
        names.CHECKS.name, one_of(names.OUTCOME, Outcome.FAIL_OPEN, Outcome.FAIL_CLOSED)
    )
    by_share = _rate(f"{names.CHECK_DURATION.name}_count", one_of(names.SOURCE, Source.LOCAL))
    # Put side by side before they are summed up: one that has no series yet counts as 0.
    return total(f"\n  {by_rule}\n  or {by_share}\n", *RELEASE)


def _slow() -> str:
    every = total(_rate(f"{names.CHECK_DURATION.name}_count"), *RELEASE)
    quick = total(_rate(bucket(names.CHECK_DURATION), f'le="{OBJECTIVE_SECONDS}"'), *RELEASE)
    return f"{every}\n- {quick}"

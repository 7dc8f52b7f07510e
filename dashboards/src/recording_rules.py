"""Recording rules: rates and limits of the tiers of policies, shares of degraded and slow checks.

Long windows sum the recorded 5-minute rates, a few series per release, so that their cost does not
grow with the number of pods.
"""

from collections.abc import Iterator
from typing import Final

from fleetlimit.core.decision import Outcome, Source
from fleetlimit.telemetry import names
from promql import RELEASE, aggregate, bucket, one_of, series, total

ALL_RELEASES: Final = 'job!=""'
"""Matcher in every selector of a rule; the chart replaces it with its own release."""
OBJECTIVE_SECONDS: Final = 0.025
"""Latency objective: half of the default store timeout, and a bound of the histogram's buckets."""

SHORTEST: Final = "5m"
LONGER: Final = ("30m", "1h", "2h", "6h", "1d", "3d")

ADMISSIONS: Final = "policy:fleetlimit_admissions:rate5m"
DENIALS: Final = "policy:fleetlimit_denials:rate5m"
NEAR_LIMIT: Final = "policy:fleetlimit_near_limit:rate5m"
LIMIT: Final = "policy:fleetlimit_policy_limit:min"
"""Smallest limit of each tier."""
CHECKS: Final = "job:fleetlimit_checks:rate5m"
DEGRADED: Final = "job:fleetlimit_checks_degraded"
"""Checks decided without the shared limit."""
SLOW: Final = "job:fleetlimit_checks_slow"
"""Checks that took longer than `OBJECTIVE_SECONDS`."""

Rule = dict[str, object]


def select(name: str, *matchers: str) -> str:
    """Return a selector for a rule."""
    return series(name, *matchers, of=ALL_RELEASES)


def share(checks: str, window: str) -> str:
    """Return the name of a recorded share of all checks.

    Args:
        checks: `DEGRADED` or `SLOW`.
        window: Averaging window.
    """
    return f"{checks}:ratio_rate{window}"


def recording_rules() -> Iterator[Rule]:
    """Return the rules, each after the rules that it reads."""
    tier = (*RELEASE, names.POLICY, names.TIER)
    denied = one_of(names.OUTCOME, Outcome.DENIED)
    yield _record(ADMISSIONS, total(_rate(names.ADMISSIONS.name), *tier))
    yield _record(DENIALS, total(_rate(names.DENIALS.name, denied), *tier))
    yield _record(NEAR_LIMIT, total(_rate(names.NEAR_LIMIT.name), *tier))
    yield _record(LIMIT, _limit_by_tier())
    yield _record(CHECKS, total(_rate(names.CHECKS.name), *RELEASE))
    yield _record(f"{DEGRADED}:rate{SHORTEST}", _degraded())
    yield _record(f"{SLOW}:rate{SHORTEST}", _slow())
    for checks in (DEGRADED, SLOW):
        part, whole = select(f"{checks}:rate{SHORTEST}"), select(CHECKS)
        # Without checks the share has no value. 0/0 would be NaN.
        yield _record(share(checks, SHORTEST), f"{part} / ({whole} > 0)")
        for window in LONGER:
            parts, wholes = (f"sum_over_time({each}[{window}])" for each in (part, whole))
            yield _record(share(checks, window), f"{parts}\n/ ({wholes} > 0)")


def _record(name: str, expression: str) -> Rule:
    return {"record": name, "expr": expression}


def _rate(name: str, *matchers: str) -> str:
    return f"rate({select(name, *matchers)}[{SHORTEST}])"


def _limit_by_tier() -> str:
    """Return the smallest limit of each tier with admissions.

    A tier without limits of its own has those of the policy's other callers. The label `limit` of a
    tier's limit is `tier/limit`.
    """
    policy = (*RELEASE, names.POLICY)
    of_tier = select(names.POLICY_LIMIT.name, f'{names.LIMIT}=~".+/.+"')
    tier = f'label_replace({of_tier}, "{names.TIER}", "$1", "{names.LIMIT}", "(.+)/.+")'
    others = aggregate("min", select(names.POLICY_LIMIT.name, f'{names.LIMIT}!~".+/.+"'), *policy)
    own = aggregate("min", tier, *policy, names.TIER)
    return f"{own}\nor 0 * {select(ADMISSIONS)} + on ({', '.join(policy)}) group_left () {others}"


def _degraded() -> str:
    failed = one_of(names.OUTCOME, Outcome.FAIL_OPEN, Outcome.FAIL_CLOSED)
    by_error_mode = _rate(names.CHECKS.name, failed)
    by_share = _rate(f"{names.CHECK_DURATION.name}_count", one_of(names.SOURCE, Source.LOCAL))
    # `or` before the sum, because `+` has no result while one of the two has no series.
    return total(f"\n  {by_error_mode}\n  or {by_share}\n", *RELEASE)


def _slow() -> str:
    every = total(_rate(f"{names.CHECK_DURATION.name}_count"), *RELEASE)
    fast = total(_rate(bucket(names.CHECK_DURATION.name), f'le="{OBJECTIVE_SECONDS}"'), *RELEASE)
    return f"{every}\n- {fast}"

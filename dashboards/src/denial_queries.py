"""Asks who is throttled: denials by policy, route and tier, and those that come close."""

from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from promql import increase, one_of, or_zero, picked, rate, ratio, total

_POLICY = picked(names.POLICY)
_DENIED = one_of(names.OUTCOME, Outcome.DENIED)
_SHADOW = one_of(names.OUTCOME, Outcome.SHADOW_DENIED)
_ALLOWED = one_of(names.OUTCOME, Outcome.ALLOWED)


def checks(*labels: str) -> str:
    """Return the requests checked each second, by these labels."""
    return total(rate(names.CHECKS.name), *labels)


def denied_share(*labels: str) -> str:
    """Return the part of the checked requests that is denied, by these labels."""
    return ratio(total(rate(names.CHECKS.name, _DENIED), *labels), checks(*labels))


def denials() -> str:
    """Return the requests denied each second."""
    return total(rate(names.CHECKS.name, _DENIED))


def denying_policies() -> str:
    """Return how many policies deny something."""
    return or_zero(f"count({denials_by_policy()} > 0)")


def denials_by_policy() -> str:
    """Return the denials of each policy each second."""
    return total(rate(names.DECISIONS.name, _POLICY, _DENIED), names.POLICY)


def denied_share_by_policy() -> str:
    """Return the part of its decisions that each policy denied."""
    decided = total(rate(names.DECISIONS.name, _POLICY), names.POLICY)
    return ratio(denials_by_policy(), decided)


def denials_by_route() -> str:
    """Return the denials on each route each second."""
    return _denials_by(names.ROUTE)


def denials_by_tier() -> str:
    """Return the denials of each tier each second."""
    return _denials_by(names.TIER)


def denials_by_policy_route_tier() -> str:
    """Return the denials of each policy, route and tier, in the time looked at."""
    return _sorted(_DENIED)


def shadow_denials() -> str:
    """Return the denials each second that there would be if shadow policies were enforced."""
    return total(rate(names.DECISIONS.name, _POLICY, _SHADOW))


def shadow_denials_by_policy() -> str:
    """Return the same by policy."""
    return total(rate(names.DECISIONS.name, _POLICY, _SHADOW), names.POLICY)


def shadow_denials_by_policy_route_tier() -> str:
    """Return the same by policy, route and tier, in the time looked at."""
    return _sorted(_SHADOW)


def near_limit_share() -> str:
    """Return the part of what policies let in that left at most a fifth of a limit."""
    near = total(rate(names.NEAR_LIMIT.name, _POLICY))
    return ratio(near, total(rate(names.DECISIONS.name, _POLICY, _ALLOWED)))


def near_limit_by_policy_and_tier() -> str:
    """Return the requests each second that left at most a fifth of a limit."""
    return total(rate(names.NEAR_LIMIT.name, _POLICY), names.POLICY, names.TIER)


def denials_without_a_line() -> str:
    """Return the denials that have no log line of their own, in the time looked at."""
    return total(increase(names.DENIALS_SUPPRESSED.name))


def _denials_by(label: str) -> str:
    return or_zero(total(rate(names.DENIALS.name, _POLICY, _DENIED), label), label)


def _sorted(outcome: str) -> str:
    grown = increase(names.DENIALS.name, _POLICY, outcome)
    return f"sort_desc({total(grown, names.POLICY, names.ROUTE, names.TIER)} > 0)"

"""Asks whether the limit holds: what was admitted, by which pods, under which policies."""

from fleetlimit.core.decision import Outcome
from fleetlimit.telemetry import names
from foreign import UP
from promql import (
    POD,
    RANGE,
    RELEASE,
    by,
    highest,
    of_fleetlimit,
    one_of,
    picked,
    rate,
    series,
    share,
    total,
)

_POLICY = picked(names.POLICY)


def worst_overshoot() -> str:
    """Return the most units let in beyond any limit, in the time looked at."""
    return f"max({highest(names.AUDIT_OVERSHOOT.name, over=RANGE)})"


def overshoot_by_policy() -> str:
    """Return the units let in beyond the limit of each policy."""
    return by("max", (names.POLICY,), highest(names.AUDIT_OVERSHOOT.name, _POLICY))


def audited_keys() -> str:
    """Return how many keys are audited now, each counted once."""
    audited = by("max", (*RELEASE, names.POLICY), series(names.AUDIT_KEYS.name))
    return total(audited)


def compared_windows_by_policy() -> str:
    """Return how many windows of audited keys are compared each second."""
    return total(rate(names.AUDIT_WINDOWS.name, _POLICY), names.POLICY)


def admitted_units_by_policy() -> str:
    """Return the units let in for audited keys each second, by all pods."""
    return total(rate(names.AUDIT_ADMITTED.name, _POLICY), names.POLICY)


def permitted_units_by_policy() -> str:
    """Return the units that the limits permit to audited keys each second."""
    return total(rate(names.AUDIT_PERMITTED.name, _POLICY), names.POLICY)


def admitted_units_by_pod() -> str:
    """Return the units that each pod lets in for audited keys each second."""
    return total(rate(names.AUDIT_ADMITTED.name, _POLICY), POD)


def permitted_units() -> str:
    """Return the units that the limits of the picked policies permit each second."""
    return total(rate(names.AUDIT_PERMITTED.name, _POLICY))


def admitted_share_by_pod() -> str:
    """Return the part of the admitted requests that each pod let in."""
    admitted = rate(names.DECISIONS.name, _POLICY, one_of(names.OUTCOME, Outcome.ALLOWED))
    return share(total(admitted, POD), total(admitted))


def serving_pods() -> str:
    """Return how many pods answer the scrape."""
    return f"sum({of_fleetlimit(series(UP))})"


def most_replicas_counted() -> str:
    """Return the replicas that the pod that knows of most counts."""
    return total(by("max", RELEASE, series(names.REPLICAS.name)))


def fewest_replicas_counted() -> str:
    """Return the replicas that the pod that knows of fewest counts."""
    return total(_fewest())


def replicas_not_counted(*labels: str) -> str:
    """Return how many pods of its release some pod does not count, by these labels."""
    there = by("count", RELEASE, series(names.REPLICAS.name))
    return total(f"clamp_min({there} - {_fewest()}, 0)", *labels)


def policy_sets() -> str:
    """Return how many different sets of policies the pods of any release serve; 1 is right."""
    return f"max({policy_sets_by_release()})"


def policy_sets_by_release() -> str:
    """Return how many different sets of policies the pods of each release serve."""
    digests = by("count", (*RELEASE, names.DIGEST), series(names.POLICY_INFO.name))
    return by("count", RELEASE, digests)


def pods_by_policy_set() -> str:
    """Return how many pods serve each set of policies."""
    return by("count", (names.DIGEST,), series(names.POLICY_INFO.name))


def pods_with_a_rejected_file(*labels: str) -> str:
    """Return how many pods rejected the policy file that they read last, by these labels."""
    return total(f"1 - {series(names.POLICY_LAST_RELOAD.name)}", *labels)


def limits() -> str:
    """Return the units per window of each limit in force."""
    return by("max", (names.POLICY, names.LIMIT), series(names.POLICY_LIMIT.name, _POLICY))


def windows() -> str:
    """Return the window of each limit in force."""
    return by("max", (names.POLICY, names.LIMIT), series(names.POLICY_WINDOW.name, _POLICY))


def _fewest() -> str:
    # Of each pod the highest: one that has just started counts none for a moment.
    return by("min", RELEASE, highest(names.REPLICAS.name))

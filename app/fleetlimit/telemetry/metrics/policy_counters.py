"""Prometheus counters of decisions by policy, and of denials also by route and tier."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter

from fleetlimit.core.decision import (
    ALLOWED,
    DENIED,
    REJECTED_OUTCOMES,
    Outcome,
    PolicyResult,
    Source,
)
from fleetlimit.core.policy import PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import CheckDecided
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter

MAX_ROUTES = 1_000
"""Maximum number of `route` labels. An app has fewer, but a check made in code may pass any text as
its route."""
_NEAR_LIMIT_DIVISOR = 5
"""A limit is near when at most a fifth of its burst is left: 80 % is used."""
_SHADOW_DENIED: Final = Outcome.SHADOW_DENIED
_DENIED_OUTCOMES = frozenset({Outcome.DENIED, Outcome.SHADOW_DENIED})


class PolicyOutcome(NamedTuple):
    """Outcome of one policy as it is counted.

    A named tuple, because it is part of the dictionary key `DecisionLabels`.

    Args:
        policy: Name of the policy.
        outcome: Outcome under this policy.
        near_limit: Whether the policy allowed the request near its limit.
    """

    policy: str
    outcome: Outcome
    near_limit: bool = False


class DecisionLabels(NamedTuple):
    """Labels under which a decision is counted; decisions with equal labels are counted at once.

    A named tuple, because it is a dictionary key: the hash of a dataclass takes 3 us more.

    Args:
        outcome: Outcome of the check.
        source: Source of the decision.
        route: Route of a denied request, else empty.
        tier: Tier of the caller.
        outcomes: Outcomes of the policies that count.
    """

    outcome: Outcome
    source: Source
    route: str
    tier: str
    outcomes: tuple[PolicyOutcome, ...]


@dataclass(frozen=True, slots=True)
class _PolicyChildren:
    """Counter children of one policy, kept because their lookup costs more than incrementing.

    Args:
        decisions: Children of `fleetlimit_decisions_total` by outcome.
        near_limit: Children of `fleetlimit_near_limit_total` by tier label.
        denials: Children of `fleetlimit_denials_total` by route, tier label and outcome.
    """

    decisions: dict[Outcome, Counter]
    near_limit: dict[str, Counter]
    denials: dict[tuple[str, str, Outcome], Counter] = field(default_factory=dict)


class PolicyCounters:
    """Counters of decisions by policy; series of removed policies and tiers stay as they are.

    Args:
        registry: Registry to add the counters to.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = counter(names.DECISIONS, registry)
        self._denials = counter(names.DENIALS, registry)
        self._near_limit = counter(names.NEAR_LIMIT, registry)
        self._routes: set[str] = set()
        self._tiers = {"": names.NO_TIER}
        self._children: dict[str, _PolicyChildren] = {}

    def load(self, policies: PolicySet) -> None:
        """Use the tiers of these policies as labels, and export their counters from 0."""
        self._tiers = {**{tier: tier for tier in _tiers_of(policies)}, "": names.NO_TIER}
        self._children = {
            policy.name: self._make_children(policy.name) for policy in policies.policies
        }

    def count(
        self, labels: DecisionLabels, number: int, exemplar: dict[str, str] | None = None
    ) -> None:
        """Count decisions under their policies.

        Args:
            labels: Labels of the decisions.
            number: Number of decisions.
            exemplar: Trace and span id to export with denials, if the trace is sampled.
        """
        tier = self._tiers.get(labels.tier, names.OTHER_TIER)
        for each in labels.outcomes:
            outcome = each.outcome
            children = self._children.get(each.policy)
            if children is None:
                children = self._children[each.policy] = self._make_children(each.policy)
            denial_exemplar = exemplar if outcome is DENIED else None
            children.decisions[outcome].inc(number, denial_exemplar)
            if outcome in _DENIED_OUTCOMES:
                denials = children.denials.get((labels.route, tier, outcome))
                if denials is None:
                    denials = self._denials_child(each, labels.route, tier)
                denials.inc(number, denial_exemplar)
            elif each.near_limit:
                children.near_limit[tier].inc(number)

    def _make_children(self, policy: str) -> _PolicyChildren:
        tiers = {*self._tiers.values(), names.OTHER_TIER}
        return _PolicyChildren(
            decisions={item: self._decisions.labels(policy, item) for item in Outcome},
            near_limit={tier: self._near_limit.labels(policy, tier) for tier in tiers},
        )

    def _denials_child(self, denial: PolicyOutcome, route: str, tier: str) -> Counter:
        label = self._route_label(route)
        child = self._denials.labels(denial.policy, label, tier, denial.outcome)
        if label != names.OTHERS:
            self._children[denial.policy].denials[route, tier, denial.outcome] = child
        return child

    def _route_label(self, route: str) -> str:
        if route == UNMATCHED_ROUTE:
            return names.NO_ROUTE
        if route not in self._routes:
            if len(self._routes) >= MAX_ROUTES:
                return names.OTHERS
            self._routes.add(route)
        return route


def _tiers_of(policies: PolicySet) -> Iterator[str]:
    for policy in policies.policies:
        yield from policy.tiers
        if policy.match is not None:
            yield from policy.match.tiers


def labels_of(event: CheckDecided) -> DecisionLabels:
    """Return the labels under which a decision is counted.

    For a rejected request only the policies that rejected it count: the others spent nothing.
    """
    decision = event.decision
    outcome, results = decision.outcome, decision.results
    if outcome is ALLOWED and len(results) == 1:
        result = results[0]
        return _allowed_labels(decision.source, event.tier, result.policy, _is_near_limit(result))
    if outcome in REJECTED_OUTCOMES:
        outcomes = [
            _policy_outcome(each.policy, each.outcome, False)  # noqa: FBT003 - a cache key
            for each in results
            if each.outcome in REJECTED_OUTCOMES
        ]
        return DecisionLabels(outcome, decision.source, event.route, event.tier, tuple(outcomes))
    outcomes = [
        _policy_outcome(each.policy, each.outcome, each.outcome is ALLOWED and _is_near_limit(each))
        for each in results
    ]
    route = event.route if outcome is _SHADOW_DENIED else ""
    return DecisionLabels(outcome, decision.source, route, event.tier, tuple(outcomes))


_policy_outcome = lru_cache(1_024)(PolicyOutcome)


@lru_cache(1_024)
def _allowed_labels(
    source: Source,
    tier: str,
    policy: str,
    near_limit: bool,  # noqa: FBT001 - a cache key
) -> DecisionLabels:
    """Return the labels of a request that its only policy allowed, by far the most frequent."""
    return DecisionLabels(
        ALLOWED, source, "", tier, (_policy_outcome(policy, ALLOWED, near_limit),)
    )


def _is_near_limit(result: PolicyResult) -> bool:
    quotas = result.quotas
    for index, status in enumerate(result.statuses):
        if status is not None and status.remaining * _NEAR_LIMIT_DIVISOR <= quotas[index].burst:
            return True
    return False

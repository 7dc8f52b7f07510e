"""Prometheus counters of decisions by policy, and of denials also by route and tier."""

from collections.abc import Iterable
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
from fleetlimit.limiter.log_sampler import OTHERS
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter
from fleetlimit.telemetry.metrics.policy_labels import PolicyLabels, tiers_of

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
        label: Value of the label `policy`.
        near_limit: Children of `fleetlimit_near_limit_total` by tier label.
        denials: Children of `fleetlimit_denials_total` by route, tier label and outcome.
    """

    label: str
    decisions: dict[Outcome, Counter]
    near_limit: dict[str, Counter]
    denials: dict[tuple[str, str, Outcome], Counter] = field(default_factory=dict)


class PolicyCounters:
    """Counters of decisions by policy; series of removed policies and tiers stay as they are.

    Args:
        registry: Registry to add the counters to.
        labels: Values of the label `policy`.
    """

    def __init__(self, registry: CollectorRegistry, labels: PolicyLabels) -> None:
        self._labels = labels
        self._decisions = counter(names.DECISIONS, registry)
        self._denials = counter(names.DENIALS, registry)
        self._near_limit = counter(names.NEAR_LIMIT, registry)
        self._routes: set[str] = set()
        self._tiers = {"": names.NO_TIER}
        self._children: dict[str, _PolicyChildren] = {}

    def load(self, policies: PolicySet, tiers: frozenset[str]) -> None:
        """Use these tiers as labels, and export the policies' counters from 0."""
        self._tiers = {**{tier: tier for tier in tiers}, "": names.NO_TIER}
        self._children = {}
        for policy in policies.policies:
            label = self._labels.label(policy.name)
            if label not in self._children:
                named = (tier for tier in tiers_of(policy) if tier in tiers)
                self._children[label] = self._make_children(label, named)

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
            children = self._children.get(each.policy) or self._find_children(each.policy)
            denial_exemplar = exemplar if outcome is DENIED else None
            children.decisions[outcome].inc(number, denial_exemplar)
            if outcome in _DENIED_OUTCOMES:
                denials = children.denials.get((labels.route, tier, outcome))
                if denials is None:
                    denials = self._denials_child(children, labels.route, tier, outcome)
                denials.inc(number, denial_exemplar)
            elif each.near_limit:
                near_limit = children.near_limit.get(tier)
                if near_limit is None:
                    near_limit = self._near_limit.labels(children.label, tier)
                    children.near_limit[tier] = near_limit
                near_limit.inc(number)

    def _find_children(self, policy: str) -> _PolicyChildren:
        label = self._labels.label(policy)
        children = self._children.get(label)
        if children is None:
            children = self._children[label] = self._make_children(label)
        return children

    def _make_children(self, label: str, tiers: Iterable[str] = ()) -> _PolicyChildren:
        exported = {*tiers, names.NO_TIER, names.OTHER_TIER}
        return _PolicyChildren(
            label,
            decisions={item: self._decisions.labels(label, item) for item in Outcome},
            near_limit={tier: self._near_limit.labels(label, tier) for tier in exported},
        )

    def _denials_child(
        self, children: _PolicyChildren, route: str, tier: str, outcome: Outcome
    ) -> Counter:
        route_label = self._route_label(route)
        child = self._denials.labels(children.label, route_label, tier, outcome)
        if route_label != OTHERS:
            children.denials[route, tier, outcome] = child
        return child

    def _route_label(self, route: str) -> str:
        if route == UNMATCHED_ROUTE:
            return names.NO_ROUTE
        if route not in self._routes:
            if len(self._routes) >= MAX_ROUTES:
                return OTHERS
            self._routes.add(route)
        return route


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

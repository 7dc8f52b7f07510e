"""Counts what each policy said, and of what it refused also the route and the caller's tier."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter

from fleetlimit.core.decision import (
    ALLOWED,
    DENIED,
    REJECTED_OUTCOMES,
    BucketStatus,
    Outcome,
    Source,
)
from fleetlimit.core.policy import PolicySet
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import CheckDecided
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter

MAX_ROUTES = 1_000
"""Routes told apart; an app has fewer, but a check made in code may name anything as its route."""
_NEAR_LIMIT_DIVISOR = 5
"""A limit is near when a fifth of it is left: 80 % is used."""
_SHADOW_DENIED: Final = Outcome.SHADOW_DENIED
_DENIED_OUTCOMES = frozenset({Outcome.DENIED, Outcome.SHADOW_DENIED})


class DecisionLabels(NamedTuple):
    """What of a decision is counted: decisions of one kind are counted together.

    Args:
        outcome: What was decided.
        source: Who decided.
        route: The route, of what a policy refused.
        tier: The caller's tier.
        outcomes: Each policy that counts, what it said, and whether it let in near its limit.
    """

    outcome: Outcome
    source: Source
    route: str
    tier: str
    outcomes: tuple[tuple[str, Outcome, bool], ...]


@dataclass(frozen=True, slots=True)
class _PolicyChildren:
    """One policy's counters, bound once: looking up children by label costs more than counting."""

    decisions: dict[Outcome, Counter]
    near_limit: dict[str, Counter]
    denials: dict[tuple[str, str, Outcome], Counter] = field(default_factory=dict)


class PolicyCounters:
    """Counters of decisions by policy. Those of a policy or tier that is gone stay as they are.

    Args:
        registry: Where the counters are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._decisions = counter(names.DECISIONS, registry)
        self._denials = counter(names.DENIALS, registry)
        self._near_limit = counter(names.NEAR_LIMIT, registry)
        self._routes: set[str] = set()
        self._tiers = {"": names.NO_TIER}
        self._children: dict[str, _PolicyChildren] = {}

    def load(self, policies: PolicySet) -> None:
        """Tell apart the tiers that these policies name, and show them at zero before traffic."""
        self._tiers = {**{tier: tier for tier in _tiers_of(policies)}, "": names.NO_TIER}
        self._children = {
            policy.name: self._make_children(policy.name) for policy in policies.policies
        }

    def count(
        self, labels: DecisionLabels, number: int, exemplar: dict[str, str] | None = None
    ) -> None:
        """Count decisions under their policies.

        Args:
            labels: What was decided.
            number: How often it was.
            exemplar: The trace to show with what was denied; None for none.
        """
        tier = self._tiers.get(labels.tier, names.OTHER_TIER)
        for policy, outcome, near in labels.outcomes:
            children = self._children.get(policy)
            if children is None:
                children = self._children[policy] = self._make_children(policy)
            denial_exemplar = exemplar if outcome is DENIED else None
            children.decisions[outcome].inc(number, denial_exemplar)
            if outcome in _DENIED_OUTCOMES:
                place = (labels.route, tier, outcome)
                self._denials_child(children, policy, place).inc(number, denial_exemplar)
            elif near:
                children.near_limit[tier].inc(number)

    def _make_children(self, policy: str) -> _PolicyChildren:
        tiers = {*self._tiers.values(), names.OTHER_TIER}
        return _PolicyChildren(
            decisions={item: self._decisions.labels(policy, item) for item in Outcome},
            near_limit={tier: self._near_limit.labels(policy, tier) for tier in tiers},
        )

    def _denials_child(
        self, children: _PolicyChildren, policy: str, place: tuple[str, str, Outcome]
    ) -> Counter:
        child = children.denials.get(place)
        if child is None:
            route = self._route_label(place[0])
            child = self._denials.labels(policy, route, *place[1:])
            if route != names.OTHERS:
                children.denials[place] = child
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
    """Return what of a decision is counted.

    Of a refused request only the policies that refused are: the others spent nothing.
    """
    decision = event.decision
    outcome, source, results = decision.outcome, decision.source, decision.results
    if outcome is ALLOWED and len(results) == 1:
        only = results[0]
        near = _is_near_limit(only.quotas, only.statuses)
        return _allowed_labels(source, event.tier, only.policy, near)
    if outcome in REJECTED_OUTCOMES:
        outcomes = [
            (each.policy, each.outcome, False)
            for each in results
            if each.outcome in REJECTED_OUTCOMES
        ]
        return DecisionLabels(outcome, source, event.route, event.tier, tuple(outcomes))
    outcomes = [
        (
            each.policy,
            each.outcome,
            each.outcome is ALLOWED and _is_near_limit(each.quotas, each.statuses),
        )
        for each in results
    ]
    route = event.route if outcome is _SHADOW_DENIED else ""
    return DecisionLabels(outcome, source, route, event.tier, tuple(outcomes))


@lru_cache(1_024)
def _allowed_labels(source: Source, tier: str, policy: str, near: bool) -> DecisionLabels:  # noqa: FBT001 - a key
    return DecisionLabels(ALLOWED, source, "", tier, ((policy, ALLOWED, near),))


def _is_near_limit(quotas: Sequence[Quota], verdicts: Iterable[BucketStatus | None]) -> bool:
    for place, verdict in enumerate(verdicts):
        if verdict is not None and verdict.remaining * _NEAR_LIMIT_DIVISOR <= quotas[place].burst:
            return True
    return False

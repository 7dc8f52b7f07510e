"""Counts what each policy said, and of what it refused also the route and the caller's tier."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter

from fleetlimit.core.decision import ALLOWED, DENIED, REFUSING, Outcome, Source, Verdict
from fleetlimit.core.made import made
from fleetlimit.core.policy import PolicySet
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import Decided
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter

ROUTES = 1_000
"""Routes told apart; an app has fewer, but a check made in code may name anything as its route."""
_NEAR = 5
"""A limit is near when a fifth of it is left: 80 % is used."""
_SHADOW_DENIED: Final = Outcome.SHADOW_DENIED
_REFUSALS = frozenset({Outcome.DENIED, Outcome.SHADOW_DENIED})


class Kind(NamedTuple):
    """What of a decision is counted: decisions of one kind are counted together.

    Args:
        outcome: What was decided.
        source: Who decided.
        route: The route, of what a policy refused.
        tier: The caller's tier.
        said: Each policy that counts, what it said, and whether it let in near its limit.
    """

    outcome: Outcome
    source: Source
    route: str
    tier: str
    said: tuple[tuple[str, Outcome, bool], ...]


@dataclass(frozen=True, slots=True)
class _Bound:
    """One policy's counters, bound once: looking up children by label costs more than counting."""

    outcomes: dict[Outcome, Counter]
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
        self._bound: dict[str, _Bound] = {}

    def load(self, policies: PolicySet) -> None:
        """Tell apart the tiers that these policies name, and show them at zero before traffic."""
        self._tiers = {**{tier: tier for tier in _named(policies)}, "": names.NO_TIER}
        self._bound = {policy.name: self._bind(policy.name) for policy in policies.policies}

    def count(self, kind: Kind, number: int, exemplar: dict[str, str] | None = None) -> None:
        """Count decisions under their policies.

        Args:
            kind: What was decided.
            number: How often it was.
            exemplar: The trace to show with what was denied; None for none.
        """
        tier = self._tiers.get(kind.tier, names.OTHER_TIER)
        for policy, outcome, near in kind.said:
            bound = self._bound.get(policy)
            if bound is None:
                bound = self._bound[policy] = self._bind(policy)
            refused = exemplar if outcome is DENIED else None
            bound.outcomes[outcome].inc(number, refused)
            if outcome in _REFUSALS:
                place = (kind.route, tier, outcome)
                self._refusals(bound, policy, place).inc(number, refused)
            elif near:
                bound.near_limit[tier].inc(number)

    def _bind(self, policy: str) -> _Bound:
        tiers = {*self._tiers.values(), names.OTHER_TIER}
        return _Bound(
            outcomes={item: self._decisions.labels(policy, item) for item in Outcome},
            near_limit={tier: self._near_limit.labels(policy, tier) for tier in tiers},
        )

    def _refusals(self, bound: _Bound, policy: str, place: tuple[str, str, Outcome]) -> Counter:
        found = bound.denials.get(place)
        if found is None:
            route = self._route(place[0])
            found = self._denials.labels(policy, route, *place[1:])
            if route != names.OTHERS:
                bound.denials[place] = found
        return found

    def _route(self, route: str) -> str:
        if route == UNMATCHED_ROUTE:
            return names.NO_ROUTE
        if route not in self._routes:
            if len(self._routes) >= ROUTES:
                return names.OTHERS
            self._routes.add(route)
        return route


def _named(policies: PolicySet) -> Iterator[str]:
    for policy in policies.policies:
        yield from policy.tiers
        if policy.match is not None:
            yield from policy.match.tiers


def kind_of(event: Decided) -> Kind:
    """Return what of a decision is counted.

    Of a refused request only the policies that refused are: the others spent nothing.
    """
    outcome, source, results, _, _ = event.decision
    if outcome is ALLOWED and len(results) == 1:
        policy, _, _, quotas, verdicts = results[0]
        return _let_in(source, event.tier, policy, _is_near(quotas, verdicts))
    if outcome in REFUSING:
        said = [(each.policy, each.outcome, False) for each in results if each.outcome in REFUSING]
        return made(Kind, (outcome, source, event.route, event.tier, tuple(said)))
    said = [
        (policy, result, result is ALLOWED and _is_near(quotas, verdicts))
        for policy, _, result, quotas, verdicts in results
    ]
    route = event.route if outcome is _SHADOW_DENIED else ""
    return made(Kind, (outcome, source, route, event.tier, tuple(said)))


@lru_cache(1_024)
def _let_in(source: Source, tier: str, policy: str, near: bool) -> Kind:  # noqa: FBT001 - a key
    return Kind(ALLOWED, source, "", tier, ((policy, ALLOWED, near),))


def _is_near(quotas: Sequence[Quota], verdicts: Iterable[Verdict | None]) -> bool:
    for place, verdict in enumerate(verdicts):
        if verdict is not None and verdict.remaining * _NEAR <= quotas[place].burst:
            return True
    return False

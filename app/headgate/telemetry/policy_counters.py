"""Counts what each policy said, and of what it refused also the route and the caller's tier."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter

from headgate.core.decision import Decision, Outcome, PolicyResult
from headgate.core.policy import PolicySet
from headgate.core.subject import UNMATCHED_ROUTE
from headgate.limiter.events import Decided
from headgate.telemetry import names
from headgate.telemetry.instruments import counter

ROUTES = 1_000
"""Routes told apart; an app has fewer, but a check made in code may name anything as its route."""
_NEAR = 5
"""A limit is near when a fifth of it is left: 80 % is used."""
_REFUSALS = frozenset({Outcome.DENIED, Outcome.SHADOW_DENIED})


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

    def count(self, event: Decided, exemplar: dict[str, str] | None) -> None:
        """Count a decision under its policies.

        Args:
            event: What was decided.
            exemplar: The trace to show with what was denied; None for none.
        """
        for result in _counted(event.decision):
            bound = self._bound.get(result.policy)
            if bound is None:
                bound = self._bound[result.policy] = self._bind(result.policy)
            outcome = result.outcome
            refused = exemplar if outcome is Outcome.DENIED else None
            bound.outcomes[outcome].inc(1, refused)
            if outcome in _REFUSALS:
                self._refusals(bound, result, event).inc(1, refused)
            elif outcome is Outcome.ALLOWED and _is_near(result):
                bound.near_limit[self._tier(event)].inc()

    def _bind(self, policy: str) -> _Bound:
        tiers = {*self._tiers.values(), names.OTHER_TIER}
        return _Bound(
            outcomes={item: self._decisions.labels(policy, item) for item in Outcome},
            near_limit={tier: self._near_limit.labels(policy, tier) for tier in tiers},
        )

    def _tier(self, event: Decided) -> str:
        return self._tiers.get(event.tier, names.OTHER_TIER)

    def _refusals(self, bound: _Bound, result: PolicyResult, event: Decided) -> Counter:
        key = (event.route, self._tier(event), result.outcome)
        found = bound.denials.get(key)
        if found is None:
            route = self._route(event.route)
            found = self._denials.labels(result.policy, route, *key[1:])
            if route != names.OTHERS:
                bound.denials[key] = found
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


def _counted(decision: Decision) -> tuple[PolicyResult, ...]:
    """Return all policies, or of a refused request those that refused: the others spent nothing."""
    if decision.allowed:
        return decision.results
    return tuple(
        result
        for result in decision.results
        if result.outcome in {Outcome.DENIED, Outcome.FAIL_CLOSED}
    )


def _is_near(result: PolicyResult) -> bool:
    return any(
        limit.verdict is not None and limit.verdict.remaining * _NEAR <= limit.quota.burst
        for limit in result.limits
    )

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
from fleetlimit.core.policy import ALL_PERCENT, Mode, Policy
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.limiter.events import CheckDecided
from fleetlimit.limiter.log_sampler import OTHERS
from fleetlimit.telemetry import names
from fleetlimit.telemetry.metrics._factories import counter
from fleetlimit.telemetry.metrics.policy_labels import PolicyLabels, tiers_of

MAX_ROUTES = 1_000
"""Maximum number of `route` labels. An app has fewer, but a check made in code may pass any text as
its route."""
MAX_ZERO_DENIALS = 1_000
"""Maximum number of denial counters that are exported before their first denial. An app of 100
routes under one policy of three tiers has 500 of them; each takes some 100 bytes of a scrape."""
_NEAR_LIMIT_DIVISOR = 5
"""A limit is near when at most a fifth of its burst is left: 80 % is used."""
_SHADOW_DENIED: Final = Outcome.SHADOW_DENIED
_LOCAL: Final = Source.LOCAL
_DENIED_OUTCOMES = frozenset({Outcome.DENIED, Outcome.SHADOW_DENIED})


class PolicyOutcome(NamedTuple):
    """Outcome of one policy as it is counted.

    A named tuple, because it is part of the dictionary key `DecisionLabels`.

    Args:
        policy: Name of the policy.
        outcome: Outcome under this policy.
        near_limit: Whether the policy allowed the request near its limit.
        is_own: Whether the limits were the caller's own, and not the policy's.
    """

    policy: str
    outcome: Outcome
    near_limit: bool = False
    is_own: bool = False


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


class _TierChildren(NamedTuple):
    """Counter children of the admissions of one policy and tier.

    Args:
        admissions: Child of `fleetlimit_admissions_total`.
        near_limit: Child of `fleetlimit_near_limit_total`.
    """

    admissions: Counter
    near_limit: Counter


@dataclass(frozen=True, slots=True)
class _PolicyChildren:
    """Counter children of one policy, kept because their lookup costs more than incrementing.

    Args:
        decisions: Children of `fleetlimit_decisions_total` by outcome.
        label: Value of the label `policy`.
        local: Child of `fleetlimit_local_admissions_total`.
        tiers: Children by tier label.
        denials: Children of `fleetlimit_denials_total` by route, tier label and outcome.
    """

    label: str
    decisions: dict[Outcome, Counter]
    local: Counter
    tiers: dict[str, _TierChildren]
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
        self._admissions = counter(names.ADMISSIONS, registry)
        self._near_limit = counter(names.NEAR_LIMIT, registry)
        self._local = counter(names.LOCAL_ADMISSIONS, registry)
        self._routes: set[str] = set()
        self._tiers = {"": names.NO_TIER}
        self._children: dict[str, _PolicyChildren] = {}
        self._zero_denials: set[tuple[str, str, str, Outcome]] = set()

    def load(self, policies: PolicySet, tiers: frozenset[str]) -> None:
        """Use these tiers as labels, and export the policies' counters from 0."""
        self._tiers = {**{tier: tier for tier in tiers}, "": names.NO_TIER}
        self._children = {}
        for policy in policies.policies:
            label = self._labels.label(policy.name)
            if label not in self._children:
                self._children[label] = self._make_children(label, self._named_tiers(policy))

    def export_denials(self, limited: Iterable[tuple[str, Policy]]) -> None:
        """Export the denials from 0: `increase()` does not see the first value of a series.

        Beyond `MAX_ZERO_DENIALS` a series begins with its first denial.

        Args:
            limited: Routes, each with a policy that may deny its requests.
        """
        for route, policy in limited:
            children = self._find_children(policy.name)
            for outcome in _possible_denials(policy):
                for tier in (*self._named_tiers(policy), names.NO_TIER, names.OTHER_TIER):
                    if len(self._zero_denials) >= MAX_ZERO_DENIALS:
                        return
                    self._zero_denials.add((children.label, route, tier, outcome))
                    self._denials_child(children, route, tier, outcome)

    def count(
        self, labels: DecisionLabels, number: int, exemplar: dict[str, str] | None = None
    ) -> None:
        """Count decisions under their policies.

        Args:
            labels: Labels of the decisions.
            number: Number of decisions.
            exemplar: Trace and span id to export with denials, if the trace is sampled.
        """
        own_tier = self._tiers.get(labels.tier, names.OTHER_TIER)
        for each in labels.outcomes:
            tier = names.CUSTOM_TIER if each.is_own else own_tier
            outcome = each.outcome
            children = self._children.get(each.policy) or self._find_children(each.policy)
            denial_exemplar = exemplar if outcome is DENIED else None
            children.decisions[outcome].inc(number, denial_exemplar)
            if outcome in _DENIED_OUTCOMES:
                denials = children.denials.get((labels.route, tier, outcome))
                if denials is None:
                    denials = self._denials_child(children, labels.route, tier, outcome)
                denials.inc(number, denial_exemplar)
            elif outcome is ALLOWED:
                tier_children = children.tiers.get(tier)
                if tier_children is None:
                    tier_children = self._make_tier_children(children.label, tier)
                    children.tiers[tier] = tier_children
                tier_children.admissions.inc(number)
                if each.near_limit:
                    tier_children.near_limit.inc(number)
                if labels.source is _LOCAL:
                    children.local.inc(number)

    def _named_tiers(self, policy: Policy) -> list[str]:
        return [tier for tier in dict.fromkeys(tiers_of(policy)) if tier in self._tiers]

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
            local=self._local.labels(label),
            tiers={tier: self._make_tier_children(label, tier) for tier in exported},
        )

    def _make_tier_children(self, label: str, tier: str) -> _TierChildren:
        return _TierChildren(
            self._admissions.labels(label, tier), self._near_limit.labels(label, tier)
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


def _possible_denials(policy: Policy) -> list[Outcome]:
    """Return the outcomes of requests above the limits of a policy that is not off."""
    is_shadow = policy.mode is Mode.SHADOW
    enforced = [] if is_shadow or not policy.enforce_percent else [DENIED]
    shadowed = [_SHADOW_DENIED] if is_shadow or policy.enforce_percent < ALL_PERCENT else []
    return [] if policy.mode is Mode.OFF else enforced + shadowed


def labels_of(event: CheckDecided) -> DecisionLabels:
    """Return the labels under which a decision is counted.

    For a rejected request only the policies that rejected it count: the others spent nothing.
    """
    decision = event.decision
    outcome, results = decision.outcome, decision.results
    if outcome is ALLOWED and len(results) == 1:
        result = results[0]
        return _allowed_labels(
            decision.source, event.tier, result.policy, _is_near_limit(result), result.is_own
        )
    if outcome in REJECTED_OUTCOMES:
        outcomes = [
            _policy_outcome(each.policy, each.outcome, False, each.is_own)  # noqa: FBT003 - a cache key
            for each in results
            if each.outcome in REJECTED_OUTCOMES
        ]
        return DecisionLabels(outcome, decision.source, event.route, event.tier, tuple(outcomes))
    outcomes = [
        _policy_outcome(
            each.policy,
            each.outcome,
            each.outcome is ALLOWED and _is_near_limit(each),
            each.is_own,
        )
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
    is_own: bool,  # noqa: FBT001 - as above
) -> DecisionLabels:
    """Return the labels of a request that its only policy allowed, by far the most frequent."""
    return DecisionLabels(
        ALLOWED, source, "", tier, (_policy_outcome(policy, ALLOWED, near_limit, is_own),)
    )


def _is_near_limit(result: PolicyResult) -> bool:
    quotas = result.quotas
    for index, status in enumerate(result.statuses):
        if status is not None and status.remaining * _NEAR_LIMIT_DIVISOR <= quotas[index].burst:
            return True
    return False

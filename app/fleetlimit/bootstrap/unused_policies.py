"""Policies that apply to no request: a misspelt route or tier, or a policy that no route names."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from fleetlimit.core.exemption import Exemption
from fleetlimit.core.policy import Match, Mode, Policy
from fleetlimit.core.policy_set import DEFAULT_POLICY, PolicySet
from fleetlimit.core.subject import UNMATCHED_ROUTE
from fleetlimit.web.route_info import RouteInfo


@dataclass(frozen=True, slots=True)
class UnusedPolicy:
    """A policy that applies to no request, or a part of its match that does not.

    Args:
        policy: Name of the policy.
        detail: What does not match, and what to write.
        is_certain: Whether no request can match; otherwise code outside the routes may use it.
    """

    policy: str
    detail: str
    is_certain: bool = True


def find_unused_policies(
    policies: PolicySet,
    routes: Sequence[RouteInfo],
    *,
    named: AbstractSet[str],
    known_tiers: AbstractSet[str] | None,
    match_policies: bool,
    exemption: Exemption | None = None,
) -> Iterator[UnusedPolicy]:
    """Yield the policies that apply to no request, and exemptions without effect.

    Of a policy that is off, only that it exempts nothing is yielded.

    Args:
        policies: The policies.
        routes: Routes of the app.
        named: Names of the policies that the routes' dependencies name.
        known_tiers: Tiers that callers can have; None where they cannot be listed.
        match_policies: Whether the app has the middleware, which applies policies by their match.
        exemption: Requests that no policy limits.
    """
    if exemption is not None:
        yield from _unused_exemption("Fleetlimit(exempt=...)", exemption, routes, known_tiers)
    for policy in policies.policies:
        if policy.mode is Mode.OFF:
            if match_policies:
                yield from _off_beside_default(policy, policies, routes)
            continue
        if policy.exemption is not None:
            subject = f"policy {policy.name}"
            yield from _unused_exemption(subject, policy.exemption, routes, known_tiers)
        if policy.name not in named:
            yield from _unused_match(policy, routes, match_policies=match_policies)
        if known_tiers is not None:
            yield from _unknown_tiers(policy, known_tiers)


def _off_beside_default(
    policy: Policy, policies: PolicySet, routes: Sequence[RouteInfo]
) -> Iterator[UnusedPolicy]:
    """Yield a policy that is off at routes where `default` applies: it exempts nothing."""
    if policy.match is None or not policy.match.routes:
        return
    for route in routes:
        for method in sorted(route.methods - {"HEAD"}) or [""]:
            if not policy.match.matches_route(method, route.template):
                continue
            found = policies.for_route(method, route.template)
            if any(each.name == DEFAULT_POLICY for each in found):
                detail = (
                    f"policy {policy.name} is off, and `{DEFAULT_POLICY}` applies to {route.name} "
                    f"in its place: to exempt the route, write exempt: {{routes: "
                    f"[{route.template}]}} in `{DEFAULT_POLICY}`"
                )
                yield UnusedPolicy(policy.name, detail, is_certain=False)
                return


def _unused_exemption(
    subject: str,
    exemption: Exemption,
    routes: Sequence[RouteInfo],
    known_tiers: AbstractSet[str] | None,
) -> Iterator[UnusedPolicy]:
    """Yield the routes and tiers of an exemption that no request has."""
    name = subject.removeprefix("policy ")
    for pattern in exemption.routes if routes else ():
        match = Match(routes=(pattern,))
        if pattern == UNMATCHED_ROUTE or any(
            match.matches_route("", each.template) for each in routes
        ):
            continue
        similar = _similar_template(pattern, [each.template for each in routes])
        fix = (
            f"did you mean {similar}?"
            if similar
            else f"{pattern} is not a route template of the app"
        )
        yield UnusedPolicy(name, f"{subject} exempts no route at {pattern}: {fix}")
    for tier in sorted(exemption.tiers - known_tiers) if known_tiers is not None else ():
        found = difflib.get_close_matches(tier, sorted(known_tiers or ()), n=1)
        fix = f"did you mean {found[0]}?" if found else "give an API key this tier"
        detail = f"{subject} exempts tier {tier}, which no API key has: {fix}"
        yield UnusedPolicy(name, detail, is_certain=False)


def _unused_match(
    policy: Policy, routes: Sequence[RouteInfo], *, match_policies: bool
) -> Iterator[UnusedPolicy]:
    if policy.match is None and policy.name != DEFAULT_POLICY:
        detail = (
            f"policy {policy.name} has no match and no route depends on it: write "
            f"Depends(PolicyLimit({policy.name!r})), or a match; if only checks by hand name it, "
            f"it needs neither (policies validate --by-hand {policy.name})"
        )
        yield UnusedPolicy(policy.name, detail, is_certain=False)
    elif not match_policies:
        detail = f"policy {policy.name} applies to no route: add RateLimitMiddleware to the app"
        yield UnusedPolicy(policy.name, detail)
    elif policy.match is not None:
        yield from _unused_routes(policy.name, policy.match, routes)


def _unused_routes(name: str, match: Match, routes: Sequence[RouteInfo]) -> Iterator[UnusedPolicy]:
    for pattern in match.routes or ("*",):
        any_method = Match(routes=(pattern,))
        of_path = [each for each in routes if any_method.matches_route("", each.template)]
        part = Match(match.methods, (pattern,))
        if any(_applies(part, route) for route in of_path):
            continue
        if any_method.matches_route("", UNMATCHED_ROUTE):
            # Requests that match no route can have any method.
            continue
        where = f" at {pattern}" if len(match.routes) > 1 else ""
        if of_path:
            existing = sorted({each for route in of_path for each in route.methods})
            fix = f"{pattern} has the methods {', '.join(existing)}"
        elif similar := _similar_template(pattern, [each.template for each in routes]):
            fix = f"did you mean {similar}?"
        else:
            fix = f"{pattern} is not a route template of the app"
        yield UnusedPolicy(name, f"policy {name} applies to no route{where}: {fix}")


def _applies(match: Match, route: RouteInfo) -> bool:
    methods: Iterable[str] = route.methods or match.methods or {""}
    return any(match.matches_route(method, route.template) for method in methods)


def _similar_template(pattern: str, templates: Sequence[str]) -> str | None:
    """Return the template with other parameter names or with a prefix, or the most similar one."""
    wildcard = "*" if pattern.endswith("*") else ""
    if wildcard:
        templates = [f"{prefix}*" for prefix in _prefixes(templates)]
    plain = {_without_names(each): each for each in reversed(templates)}
    wanted = _without_names(pattern)
    if wanted in plain:
        return plain[wanted]
    for each, template in sorted(plain.items()):
        if wanted != "/*" and each.endswith(wanted):
            return template
    found = difflib.get_close_matches(wanted, sorted(plain), n=1)
    return plain[found[0]] if found else None


def _prefixes(templates: Iterable[str]) -> list[str]:
    return sorted(
        {template[: slash.end()] for template in templates for slash in re.finditer("/", template)}
    )


def _without_names(template: str) -> str:
    """Return a template without the names of its parameters and without a final slash."""
    return re.sub(r"{[^}]*}", "{}", template).rstrip("/") or "/"


def _unknown_tiers(policy: Policy, known_tiers: AbstractSet[str]) -> Iterator[UnusedPolicy]:
    matched = policy.match.tiers if policy.match is not None else frozenset()
    # Without `limits` the first tier's limits apply to the callers of all other tiers.
    limits = [*policy.tiers][0 if policy.limits else 1 :]
    for tier in sorted({*limits, *matched} - known_tiers):
        found = difflib.get_close_matches(tier, sorted(known_tiers), n=1)
        fix = f"did you mean {found[0]}?" if found else "give an API key this tier"
        detail = f"policy {policy.name} names tier {tier}, which no API key has: {fix}"
        yield UnusedPolicy(policy.name, detail, is_certain=False)

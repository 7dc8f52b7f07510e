"""Policies that apply to no request: warnings at start and after a reload."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI

from fleetlimit import Exemption, Fleetlimit, Policy, PolicyLimit, PolicySet, RateLimitMiddleware
from fleetlimit.bootstrap.unused_policies import find_unused_policies
from fleetlimit.core.policy import Match
from fleetlimit.web.route_info import RouteInfo
from support.eventually import eventually_async
from support.policies import write_atomically

ROUTES = [
    RouteInfo("/v1/reports/{report_id}", frozenset({"GET", "HEAD"})),
    RouteInfo("/v1/exports", frozenset({"POST"})),
    RouteInfo("/static/{path:path}"),
    RouteInfo("/ws", frozenset({"WEBSOCKET"})),
]


def unused(policy: Policy, **options: Any) -> list[str]:
    given = {"named": frozenset(), "known_tiers": None, "match_policies": True} | options
    return [each.detail for each in find_unused_policies(PolicySet([policy]), ROUTES, **given)]


@pytest.mark.parametrize(
    ("methods", "routes", "fix"),
    [
        ("", "/v1/report/{report_id}", "did you mean /v1/reports/{report_id}?"),
        ("", "/v1/reports/{id}", "did you mean /v1/reports/{report_id}?"),
        ("", "/v1/reports/{report_id:int}", "did you mean /v1/reports/{report_id}?"),
        ("", "/reports/{report_id}", "did you mean /v1/reports/{report_id}?"),
        ("", "/exports", "did you mean /v1/exports?"),
        ("", "/v1/exports/", "did you mean /v1/exports?"),
        ("", "/v1/exprots", "did you mean /v1/exports?"),
        ("", "/v1/report/*", "did you mean /v1/reports/*?"),
        ("", "/orders", "/orders is not a route template of the app"),
        ("GET", "/v1/exports", "/v1/exports has the methods POST"),
        ("PUT DELETE", "/v1/*", "/v1/* has the methods GET, HEAD, POST"),
        ("GET", "/ws", "/ws has the methods WEBSOCKET"),
    ],
)
def test_policy_of_no_route_is_unused(methods: str, routes: str, fix: str) -> None:
    """The detail says what the policy may have meant."""
    match = Match(frozenset(methods.split()), (routes,))
    found = unused(Policy("strict", "1/day", match=match))
    assert found == [f"policy strict applies to no route: {fix}"]


@pytest.mark.parametrize(
    ("methods", "routes"),
    [
        ("", "/v1/exports"),
        ("HEAD", "/v1/reports/{report_id}"),
        ("GET POST", "/v1/exports"),
        ("", "/v1/*"),
        ("PUT", "/static/*"),
        ("WEBSOCKET", "/ws"),
        ("", "*"),
        ("", "unmatched"),
        ("PATCH", ""),
    ],
)
def test_policy_of_a_route_is_used(methods: str, routes: str) -> None:
    """A policy that can apply to some request is used."""
    match = Match(frozenset(methods.split()), tuple(routes.split()))
    assert unused(Policy("strict", "1/day", match=match)) == []


def test_each_route_of_a_match_is_compared() -> None:
    """One misspelt route among several is found."""
    match = Match(routes=("/v1/exports", "/v1/exprots"))
    assert unused(Policy("strict", "1/day", match=match)) == [
        "policy strict applies to no route at /v1/exprots: did you mean /v1/exports?"
    ]


def test_policy_without_match_must_be_named() -> None:
    """A policy without a match applies where a dependency names it; `default` applies itself."""
    policy = Policy("exports", "1/day")
    (detail,) = unused(policy)
    assert "Depends(PolicyLimit('exports'))" in detail
    assert unused(policy, named={"exports"}) == []
    assert unused(Policy("default", "1/day")) == []
    assert unused(Policy("exports", "1/day", mode="off")) == []


def test_exemption_of_no_route_or_tier_is_found() -> None:
    """The detail says what the exemption may have meant, in a policy and for all policies."""
    exempt = Exemption(routes=["/v1/exprots", "/orders", "/v1/*", "unmatched"], tiers=["staf"])
    details = [
        "exempts no route at /v1/exprots: did you mean /v1/exports?",
        "exempts no route at /orders: /orders is not a route template of the app",
        "exempts tier staf, which no API key has: did you mean staff?",
    ]
    default = Policy("default", "1/day", exempt=exempt)
    tiers = {"known_tiers": frozenset({"staff"})}
    assert unused(default, **tiers) == [f"policy default {each}" for each in details]
    found = unused(Policy("default", "1/day"), exemption=exempt, **tiers)
    assert found == [f"Fleetlimit(exempt=...) {each}" for each in details]
    assert unused(default)[:2] == [f"policy default {each}" for each in details[:2]]


def test_policy_that_is_off_beside_default_exempts_nothing() -> None:
    """`default` applies in its place; without `default` the route has no limit."""
    match = Match(routes=("/v1/exports",))
    off = Policy("exports", "1/day", match=match, mode="off")
    default = Policy("default", "1/day")
    options: Any = {"named": frozenset(), "known_tiers": None}
    both = PolicySet([default, off])
    (found,) = find_unused_policies(both, ROUTES, match_policies=True, **options)
    assert found.detail == (
        "policy exports is off, and `default` applies to POST /v1/exports in its place: to exempt "
        "the route, write exempt: {routes: [/v1/exports]} in `default`"
    )
    assert not found.is_certain
    assert not [*find_unused_policies(PolicySet([off]), ROUTES, match_policies=True, **options)]
    elsewhere = Policy("old", "1/day", match=Match(routes=("/old",)), mode="off")
    anywhere = Policy("any", "1/day", match=Match(), mode="off")
    for each in (elsewhere, anywhere):
        policies = PolicySet([default, each])
        assert not [*find_unused_policies(policies, ROUTES, match_policies=True, **options)]


def test_policies_need_the_middleware() -> None:
    """Without the middleware only dependencies apply policies."""
    match = Match(routes=("/v1/exports",))
    for policy in (Policy("default", "1/day"), Policy("strict", "1/day", match=match)):
        (detail,) = unused(policy, match_policies=False)
        assert detail.endswith("applies to no route: add RateLimitMiddleware to the app")
        assert unused(policy, match_policies=False, named={policy.name}) == []


def test_tier_that_no_caller_has_is_found() -> None:
    """Tiers of limits and of a match are compared; the first tier is that of all other callers."""
    policy = Policy(
        "default",
        tiers={"free": "1/day", "prof": "9/day"},
        match=Match(tiers=frozenset({"gold"})),
    )
    assert unused(policy, known_tiers={"", "pro"}) == [
        "policy default names tier gold, which no API key has: give an API key this tier",
        "policy default names tier prof, which no API key has: did you mean pro?",
    ]
    limited = Policy("default", "1/day", {"free": "2/day"})
    assert len(unused(limited, known_tiers=frozenset())) == 1
    assert unused(policy) == [], "tokens and custom resolvers name any tier"


class OwnMiddleware(RateLimitMiddleware):
    """Middleware of an app that subclasses that of the package."""


async def test_middleware_around_the_app_and_subclasses_apply_policies(
    log: pytest.LogCaptureFixture,
) -> None:
    """So do one that a function makes, and that of a mounted app."""
    wrapped, subclassed, made, outer = (FastAPI(openapi_url=None) for _ in range(4))
    RateLimitMiddleware(wrapped)
    subclassed.add_middleware(OwnMiddleware)
    made.add_middleware(lambda app: RateLimitMiddleware(app))  # noqa: PLW0108 - the case
    outer.mount("/mounted", subclassed)
    for app in (wrapped, subclassed, made, outer):
        async with Fleetlimit(policies=PolicySet([Policy("default", "1/day")]))(app):
            pass
    assert "policy.unused" not in log.text
    assert "routes.unlimited" not in log.text


FILE = """\
version: 1
identity: {{api_keys: {{file: keys.yaml}}}}
policies:
  - name: strict
    match: {{routes: ['{route}'], tiers: [prof]}}
    limits: [{{rate: 1/day}}]
  - {{name: orders, limits: [{{rate: 1/day}}]}}
"""


async def test_start_and_reload_warn_of_unused_policies(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """The warnings name the route and the tier; a policy that a dependency names is used."""
    digest = hashlib.sha256(b"key").hexdigest()
    keys = f"keys: [{{sha256: {digest}, principal: a, tier: pro}}]\n"
    write_atomically(tmp_path / "keys.yaml", keys)
    file = tmp_path / "policies.yaml"
    write_atomically(file, FILE.format(route="/reports/{id}"))
    app = FastAPI()
    app.add_middleware(RateLimitMiddleware)
    router = APIRouter(prefix="/v1")
    router.get("/reports/{report_id}", dependencies=[Depends(PolicyLimit("orders"))])(lambda: None)
    app.include_router(router)

    def warnings() -> list[str]:
        return [
            record.getMessage()
            for record in log.records
            if record.levelno == logging.WARNING and "policy.unused" in record.getMessage()
        ]

    fleetlimit = Fleetlimit(policies=file)
    async with fleetlimit(app):
        first = warnings()
        assert len(first) == 2
        assert "did you mean /v1/reports/{report_id}?" in first[0]
        assert "did you mean pro?" in first[1]
        write_atomically(file, FILE.format(route="/v1/report/*"))
        await eventually_async(lambda: len(warnings()) == 4)
        assert "did you mean /v1/reports/*?" in warnings()[2]

"""The OpenAPI schema states the limits of each operation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route
from starlette.testclient import TestClient

from fleetlimit import (
    RATE_LIMIT_RESPONSES,
    ConcurrencyLimit,
    ConfigError,
    Exemption,
    Fleetlimit,
    Limit,
    Policy,
    PolicyLimit,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
    Usage,
    document_limits,
)
from fleetlimit.core.policy import Match
from fleetlimit.core.quota import Algorithm, Quota, concurrency_quota, rate_quota
from fleetlimit.web.openapi import quota_words

FILE = """
version: 1
policies:
  - name: default
    limits: [{rate: 100/minute, burst: 150}]
  - name: exports
    match: {methods: [POST], routes: [/v1/exports]}
    key: [principal, route]
    tiers:
      free: [{rate: 5/minute}]
      pro: [{rate: 60/minute}, {rate: 1000/day, algorithm: fixed_window}]
    on_store_error: deny
  - {name: tried, match: {}, limits: [{rate: 1/day}], mode: shadow}
  - {name: gold, match: {tiers: [gold]}, limits: [{rate: 9/second}]}
  - {name: quiet, limits: [{rate: 7/day}]}
"""


async def nothing() -> None:
    """Return an empty response."""


def schema_of(app: FastAPI, path: str = "/openapi.json") -> dict[str, Any]:
    """Return the schema that the started app serves."""
    with TestClient(app) as client:
        found: dict[str, Any] = client.get(path).json()
        return found


def operation(schema: dict[str, Any], path: str, method: str = "get") -> dict[str, Any]:
    found: dict[str, Any] = schema["paths"][path][method]
    return found


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """Return a policy file."""
    file = tmp_path / "policies.yaml"
    file.write_text(FILE)
    return file


def limited(
    policies: Path | PolicySet | None = None,
    *,
    fleetlimit: Fleetlimit | None = None,
    **options: Any,
) -> FastAPI:
    """Return an app with the middleware and a router."""
    app = FastAPI(lifespan=fleetlimit or Fleetlimit(policies=policies, **options))
    router = APIRouter(prefix="/v1")
    router.post("/exports")(nothing)
    router.get("/items/{item_id:path}")(nothing)
    app.include_router(router)
    app.add_middleware(RateLimitMiddleware)
    return app


def test_limit_in_code_is_documented() -> None:
    """A dependency documents 429, its header fields, and its figures."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/", dependencies=[Depends(RateLimit("5/minute", burst=9, cost=2))])(nothing)
    schema = schema_of(app)
    found = operation(schema, "/")
    assert found["x-ratelimit"] == [
        {
            "policy": "5/60s-burst9",
            "key": ["principal", "route"],
            "limits": [
                {
                    "description": "5 requests per minute, at most 9 at once",
                    "algorithm": "token_bucket",
                    "limit": 5,
                    "seconds": 60,
                    "burst": 9,
                }
            ],
            "cost": 2,
        }
    ]
    rejection = found["responses"]["429"]
    assert rejection["description"] == (
        "A limit is exceeded (5 requests per minute, at most 9 at once)."
    )
    assert set(rejection["headers"]) == {"Retry-After", "RateLimit", "RateLimit-Policy"}
    assert rejection["content"] == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/RateLimitProblem"}}
    }
    problem = schema["components"]["schemas"]["RateLimitProblem"]
    assert problem["required"] == ["type", "title", "status"]
    assert set(found["responses"]["200"]["headers"]) == {"RateLimit", "RateLimit-Policy"}
    assert "503" not in found["responses"]


def test_policies_of_the_middleware_are_documented(policies: Path) -> None:
    """Each operation has the policies that can apply to it, with the limits of each tier."""
    schema = schema_of(limited(policies))
    exports = operation(schema, "/v1/exports", "post")
    assert [each["policy"] for each in exports["x-ratelimit"]] == ["exports", "gold"]
    first = exports["x-ratelimit"][0]
    assert first["key"] == ["principal", "route"]
    assert [each["limit"] for each in first["tiers"]["pro"]] == [60, 1000]
    assert exports["x-ratelimit"][1]["only-tiers"] == ["gold"]
    assert (
        "free: 5 requests per minute; pro: 60 requests per minute and 1,000 requests per day"
        in (exports["responses"]["429"]["description"])
    )
    assert set(exports["responses"]) >= {"429", "503"}
    items = operation(schema, "/v1/items/{item_id}")
    assert [each["policy"] for each in items["x-ratelimit"]] == ["gold", "default"]
    assert "503" not in items["responses"]


def test_without_the_middleware_policies_do_not_apply(policies: Path) -> None:
    """Only routes that name a policy are limited, and have it in the schema."""
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    app.get("/free")(nothing)
    app.get("/named", dependencies=[Depends(PolicyLimit("quiet"))])(nothing)
    schema = schema_of(app)
    assert "x-ratelimit" not in operation(schema, "/free")
    assert "429" not in operation(schema, "/free")["responses"]
    assert [each["policy"] for each in operation(schema, "/named")["x-ratelimit"]] == ["quiet"]


def test_documents_of_the_app_are_kept() -> None:
    """Responses, headers and the extension of the app are as the app has them."""
    own = {"description": "slow down", "content": {"text/plain": {"schema": {"type": "string"}}}}
    limit = [Depends(RateLimit("5/minute", on_store_error="deny"))]
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/429", dependencies=limit, responses={429: own})(nothing)
    app.get("/4XX", dependencies=limit, responses={"4XX": own, "5XX": own})(nothing)
    app.get("/default", dependencies=limit, responses={"default": own})(nothing)
    app.get("/ours", dependencies=limit, responses=RATE_LIMIT_RESPONSES)(nothing)
    mine = {"headers": {"RateLimit": {"description": "mine", "schema": {"type": "integer"}}}}
    app.get("/200", dependencies=limit, responses={200: mine})(nothing)
    app.get("/extra", dependencies=limit, openapi_extra={"x-ratelimit": "own"})(nothing)
    schema = schema_of(app)
    assert operation(schema, "/429")["responses"]["429"] == own
    assert set(operation(schema, "/4XX")["responses"]) == {"200", "4XX", "5XX"}
    assert set(operation(schema, "/default")["responses"]) == {"200", "default"}
    ours = operation(schema, "/ours")["responses"]["429"]
    assert ours["description"] == RATE_LIMIT_RESPONSES[429]["description"]
    headers = operation(schema, "/200")["responses"]["200"]["headers"]
    assert headers["RateLimit"]["description"] == "mine"
    assert "RateLimit-Policy" in headers
    assert operation(schema, "/extra")["x-ratelimit"] == "own"


def test_openapi_of_a_limit_can_be_switched_off(policies: Path) -> None:
    """A limit with `openapi=False` is enforced and not documented."""
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    for path, limit in {
        "/rate": RateLimit("5/minute", openapi=False),
        "/busy": ConcurrencyLimit(5, openapi=False),
        "/named": PolicyLimit("quiet", openapi=False),
        "/exports": PolicyLimit("exports", openapi=False),
    }.items():
        app.get(path, dependencies=[Depends(limit)])(nothing)
    schema = schema_of(app)
    assert all("429" not in each["get"]["responses"] for each in schema["paths"].values())


def test_openapi_of_fleetlimit_can_be_switched_off(policies: Path) -> None:
    """With `openapi=False` the schema is the app's own."""
    app = limited(policies, openapi=False)
    before = app.openapi()
    assert schema_of(app) == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fleetlimit(openapi="no"),  # type: ignore[arg-type]  # the mistake
        lambda: RateLimit("5/minute", openapi="no"),  # type: ignore[arg-type]  # the mistake
        lambda: ConcurrencyLimit(5, openapi=0),  # type: ignore[arg-type]  # the mistake
        lambda: PolicyLimit("a", openapi=None),  # type: ignore[arg-type]  # the mistake
    ],
)
def test_switch_that_is_no_truth_value_is_an_error(make: Callable[[], object]) -> None:
    """A text would be true, whatever it says."""
    with pytest.raises(ConfigError, match=r"openapi=.* is not a truth value: write True or False"):
        make()


def test_customized_schema_is_completed(policies: Path) -> None:
    """An app that makes its schema itself, or caches it, keeps what it made."""
    app = limited(policies)
    made: list[dict[str, Any]] = []

    def custom() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = get_openapi(title="mine", version="9", routes=app.routes)
            app.openapi_schema["info"]["x-logo"] = {"url": "logo.png"}
            made.append(app.openapi_schema)
        return app.openapi_schema

    app.openapi = custom  # type: ignore[method-assign]  # as FastAPI's documentation has it
    with TestClient(app) as client:
        schema = client.get("/openapi.json").json()
        assert client.get("/openapi.json").json() == schema
        assert app.openapi() is app.openapi()
    assert (schema["info"]["title"], schema["info"]["x-logo"]) == ("mine", {"url": "logo.png"})
    assert "429" in operation(schema, "/v1/exports", "post")["responses"]
    assert len(made) == 1
    assert "429" not in operation(made[0], "/v1/exports", "post")["responses"]
    assert app.openapi is custom


def test_schema_follows_new_policies(policies: Path) -> None:
    """A reload of the policies, and a route that is added later, are in the next schema."""
    fleetlimit = Fleetlimit(policies=policies)
    app = limited(fleetlimit=fleetlimit)
    with TestClient(app) as client:
        before = client.get("/openapi.json").json()
        fleetlimit.limiter.active_policies.replace(
            PolicySet([Policy("default", Limit.rate("3/hour"))], generation=2)
        )
        after = client.get("/openapi.json").json()
        app.get("/late")(nothing)
        app.openapi_schema = None
        late = client.get("/openapi.json").json()
    assert [each["policy"] for each in operation(before, "/v1/exports", "post")["x-ratelimit"]] == [
        "exports",
        "gold",
    ]
    assert operation(after, "/v1/exports", "post")["x-ratelimit"][0]["limits"][0]["limit"] == 3
    assert "429" in operation(late, "/late")["responses"]


def test_schema_follows_dependency_overrides() -> None:
    """A limit that a test overrides is not in the schema."""
    limit = RateLimit("5/minute")
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/", dependencies=[Depends(limit)])(nothing)
    with TestClient(app):
        assert "429" in operation(app.openapi(), "/")["responses"]
        app.dependency_overrides[limit] = nothing
        assert "429" not in operation(app.openapi(), "/")["responses"]
        app.dependency_overrides.clear()
        assert "429" in operation(app.openapi(), "/")["responses"]


def test_mounted_apps_are_documented() -> None:
    """A mounted app's schema has its own paths, with the policies of the full templates."""
    matched = Policy("mounted", "5/minute", match=Match(routes=("/t/{tenant}/sub/items/{id}",)))
    outer = FastAPI(lifespan=Fleetlimit(policies=PolicySet([matched])))
    inner, innermost, hosted = FastAPI(), FastAPI(), FastAPI()
    for app in (inner, innermost, hosted):
        app.get("/items/{id}", dependencies=[Depends(RateLimit("7/minute"))])(nothing)
    inner.mount("/deep", innermost)
    outer.mount("/t/{tenant}/sub", inner)
    outer.router.routes.append(Host("api.example", hosted))
    outer.router.routes.append(
        Mount("/plain", Starlette(routes=[Route("/", PlainTextResponse(""))]))
    )
    outer.add_middleware(RateLimitMiddleware)
    with TestClient(outer) as client:
        schema = client.get("/t/x/sub/openapi.json").json()
        deep = client.get("/t/x/sub/deep/openapi.json").json()
        host = hosted.openapi()
    found = operation(schema, "/items/{id}")["x-ratelimit"]
    assert [each["limits"][0]["limit"] for each in found] == [5, 7]
    for each in (deep, host):
        found = operation(each, "/items/{id}")["x-ratelimit"]
        assert [each["limits"][0]["limit"] for each in found] == [7]


def test_parameters_of_a_mount_and_its_app_may_have_one_name() -> None:
    """The mount and the route below it are matched one after the other."""
    outer, inner = FastAPI(lifespan=Fleetlimit()), FastAPI()
    inner.get("/{id:int}", dependencies=[Depends(RateLimit("7/minute"))])(nothing)
    outer.mount("/{id}", inner)
    schema = schema_of(outer, "/x/openapi.json")
    assert "429" in operation(schema, "/{id}")["responses"]


def test_mounted_app_with_its_own_limiter_documents_itself() -> None:
    """Two limiters do not document each other's routes."""
    own = Fleetlimit(policies=PolicySet([Policy("inner", "5/minute", match=Match())]))
    outer, inner = FastAPI(lifespan=Fleetlimit(openapi=False)), FastAPI(lifespan=own)
    inner.get("/items")(nothing)
    inner.add_middleware(RateLimitMiddleware)
    outer.mount("/sub", inner)
    with TestClient(outer), TestClient(inner):
        found = operation(inner.openapi(), "/items")["x-ratelimit"]
    assert [each["policy"] for each in found] == ["inner"]


@pytest.mark.parametrize(
    "options",
    [
        {"on_rejected": lambda *_: None},
        {"use_exception_handlers": True},
    ],
)
@pytest.mark.parametrize("door", ["limiter", "middleware"])
def test_own_format_has_no_schema(options: dict[str, Any], door: str) -> None:
    """The body of a rejection that the app writes is not known."""
    app = FastAPI(lifespan=Fleetlimit(**(options if door == "limiter" else {})))
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    app.add_middleware(RateLimitMiddleware, **(options if door == "middleware" else {}))
    rejection = operation(schema_of(app), "/")["responses"]["429"]
    assert set(rejection) == {"description", "headers"}


def test_headers_are_those_of_the_format() -> None:
    """The header fields are those that responses have, custom names too."""
    app = FastAPI(lifespan=Fleetlimit(headers=["openai", {"used": "X-Used"}]))
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    headers = operation(schema_of(app), "/")["responses"]["429"]["headers"]
    assert set(headers) == {
        "Retry-After",
        *(f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset") for b in UNITS),
        "X-Used",
    }
    assert headers["X-Used"]["description"] == "Units that are spent."


UNITS = ("requests", "tokens")


def test_schema_of_another_thing_is_not_replaced() -> None:
    """An app with a component of that name keeps it, and the schema is inline."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    own = app.openapi
    taken = {"schemas": {"RateLimitProblem": {"type": "string"}}}
    app.openapi = lambda: {**own(), "components": taken}  # type: ignore[method-assign]  # customized
    schema = schema_of(app)
    assert schema["components"] == taken
    content = operation(schema, "/")["responses"]["429"]["content"]
    assert content["application/problem+json"]["schema"]["type"] == "object"


def test_failure_leaves_the_schema_of_the_app(log: pytest.LogCaptureFixture) -> None:
    """An odd schema is served as the app made it, and the error is in the log."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    odd = {"paths": {"/": {"get": {"responses": 5}}}}
    app.openapi = lambda: odd  # type: ignore[method-assign]  # customized
    assert schema_of(app) == odd
    assert "openapi.failed" in log.text


def test_response_that_is_a_reference_is_kept() -> None:
    """Headers cannot be added to a reference."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    reference = {"$ref": "#/components/responses/ok"}
    app.openapi = lambda: {"paths": {"/": {"get": {"responses": {"200": reference}}}}}  # type: ignore[method-assign]  # customized
    assert operation(schema_of(app), "/")["responses"]["200"] == reference


def test_schema_is_the_apps_own_after_the_end(policies: Path) -> None:
    """A closed limiter leaves no trace in the app, also after several starts."""
    app = limited(policies)
    before = app.openapi()
    for _ in range(2):
        assert "429" in str(schema_of(app))
        assert app.openapi() == before
    assert "openapi" not in vars(app)


def test_app_that_is_not_started_can_be_exported(policies: Path) -> None:
    """`document_limits` documents what a start would, and repeating it changes nothing."""
    app = limited(policies)
    document_limits(app)
    document_limits(app)
    exported = app.openapi()
    assert exported == schema_of(limited(policies))


def test_app_without_fleetlimit_can_be_exported(
    monkeypatch: pytest.MonkeyPatch, policies: Path
) -> None:
    """Limits in code need no `Fleetlimit`, and policies are those of the environment."""
    monkeypatch.setenv("FLEETLIMIT_POLICIES", str(policies))
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    app.get("/named", dependencies=[Depends(PolicyLimit("quiet"))])(nothing)
    document_limits(app)
    schema = app.openapi()
    assert "429" in operation(schema, "/")["responses"]
    assert operation(schema, "/named")["x-ratelimit"][0]["policy"] == "quiet"


def test_limits_of_a_default_limiter_are_documented() -> None:
    """An app that never mentions `Fleetlimit` has its limits in the schema from a check on."""
    app = FastAPI()
    app.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    client = TestClient(app)
    client.get("/")
    assert "429" in operation(client.get("/openapi.json").json(), "/")["responses"]


def test_missing_policy_is_left_out() -> None:
    """What would fail at start does not fail an export."""
    app = FastAPI()
    app.get("/named", dependencies=[Depends(PolicyLimit("missing"))])(nothing)
    document_limits(app)
    assert "429" not in str(app.openapi()["paths"])


def test_costs_and_counted_statuses_are_documented() -> None:
    """A cost in tokens has its unit, a computed one its word, and `count` its statuses."""
    app = limited(
        PolicySet(
            [
                Policy("llm", "900/minute", cost=Usage("openai")),
                Policy("login", "5/minute", count=[401, "5xx"]),
            ]
        )
    )
    limits = {
        "/llm": PolicyLimit("llm"),
        "/login": PolicyLimit("login", cost=2),
        "/tokens": RateLimit("9/minute", cost=Usage("anthropic")),
        "/computed": RateLimit("9/minute", cost=lambda _: 1),
    }
    for path, limit in limits.items():
        app.get(path, dependencies=[Depends(limit)])(nothing)
    schema = schema_of(app)
    found = {path: operation(schema, path)["x-ratelimit"][0] for path in limits}
    assert found["/llm"]["limits"][0]["description"] == "900 tokens per minute"
    assert [found[path].get("cost") for path in limits] == ["usage", 2, "usage", "computed"]
    assert found["/login"]["count"] == "401-5xx"
    assert "count" not in found["/llm"]


def test_exemptions_are_documented() -> None:
    """A route that a policy exempts is not limited by it; callers are not published."""
    exempt = Exemption(routes=["/v1/items/*"], tiers=["staff"], principals=["alice"])
    schema = schema_of(limited(PolicySet([Policy("default", "5/minute", exempt=exempt)])))
    assert "429" not in operation(schema, "/v1/items/{item_id}")["responses"]
    everywhere = Exemption(routes=["/v1/exports"])
    policies = PolicySet([Policy("default", "5/minute", match=Match())])
    other = schema_of(limited(policies, exempt=everywhere))
    assert "429" in operation(other, "/v1/items/{item_id}")["responses"]
    assert "429" not in operation(other, "/v1/exports", "post")["responses"]
    (item,) = operation(schema, "/v1/exports", "post")["x-ratelimit"]
    assert item["exempt-tiers"] == ["staff"]
    assert "alice" not in str(schema)


def test_own_limits_of_callers_are_mentioned() -> None:
    """The limits of a function are not known; its default is."""
    app = FastAPI(lifespan=Fleetlimit())
    limit = RateLimit(lambda _: None, default="10/minute")
    app.get("/", dependencies=[Depends(limit)])(nothing)
    provided = FastAPI(lifespan=Fleetlimit(limits=lambda *_: None))
    provided.get("/", dependencies=[Depends(RateLimit("5/minute"))])(nothing)
    assert operation(schema_of(provided), "/")["x-ratelimit"][0]["own-limits"] is True
    found = operation(schema_of(app), "/")
    assert found["x-ratelimit"][0]["own-limits"] is True
    assert found["x-ratelimit"][0]["limits"][0]["limit"] == 10
    assert (
        "10 requests per minute, or the caller's own limits"
        in (found["responses"]["429"]["description"])
    )


def test_windows_of_a_calendar_are_documented() -> None:
    """The extension has the unit, the time zone and the anchor."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/", dependencies=[Depends(RateLimit("9/year", timezone="Europe/Berlin"))])(nothing)
    limit = operation(schema_of(app), "/")["x-ratelimit"][0]["limits"][0]
    assert (limit["unit"], limit["timezone"], limit["anchor"]) == ("year", "Europe/Berlin", "01-01")


def test_many_limits_are_left_out_of_the_description() -> None:
    """A long list is in the extension alone."""
    tiers = {f"tier-{number}": Limit.rate("5/minute") for number in range(20)}
    app = limited(PolicySet([Policy("default", tiers=tiers, match=Match())]))
    found = operation(schema_of(app), "/v1/exports", "post")
    assert found["responses"]["429"]["description"] == "A limit is exceeded."
    assert len(found["x-ratelimit"][0]["tiers"]) == 20


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        (rate_quota("1/second"), "1 request per second"),
        (rate_quota("150000/minute"), "150,000 requests per minute"),
        (rate_quota("5 per 2 hours"), "5 requests per 2 hours"),
        (rate_quota("5 per 90 s"), "5 requests per 90 seconds"),
        (rate_quota("5 per 7 days"), "5 requests per 7 days"),
        (Quota(Algorithm.TOKEN_BUCKET, 5, 500_000, 5), "5 requests per 0.5 seconds"),
        (rate_quota("9/day", cost=3), "9 requests per day, each counts 3"),
        (concurrency_quota(4), "4 requests at the same time"),
        (rate_quota("9/week"), "9 requests per calendar week (UTC)"),
        (
            rate_quota("9/month", timezone="Europe/Berlin", anchor=15),
            "9 requests per calendar month from 15 on (Europe/Berlin)",
        ),
    ],
)
def test_limits_in_words(quota: Quota, words: str) -> None:
    """The words have the largest unit of time that fits."""
    assert quota_words(quota, "requests") == words
    assert quota_words(rate_quota("5/day"), "tokens") == "5 tokens per day"

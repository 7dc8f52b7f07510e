"""GET /usage: callers see their limits, and spend nothing."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit import (
    CallerUsage,
    CheckDecided,
    ConcurrencyLimit,
    ConfigError,
    Event,
    Exemption,
    Fleetlimit,
    IdentityError,
    Limit,
    Match,
    Policy,
    PolicyLimit,
    PolicySet,
    Principal,
    RateLimit,
    RateLimitMiddleware,
    StoreUnavailable,
    usage_router,
)
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.testing import FleetlimitFactory, ManualClock, unlimited
from fleetlimit.web.caller_limits import MAX_BUCKETS

Found = dict[str, dict[str, Any]]


async def resolve_user(connection: HTTPConnection) -> Principal | None:
    """Return the caller `name/tier` of a header; `mallory` does not verify."""
    name, _, tier = connection.headers.get("X-User", "").partition("/")
    if name == "mallory":
        raise IdentityError("no such user", reason="unknown_user")
    return Principal(name, tier) if name else None


def user(name: str) -> dict[str, str]:
    return {"X-User": name}


def read(client: TestClient, name: str = "alice", path: str = "/usage") -> Found:
    """Return the limits of a caller by policy and route."""
    response = client.get(path, headers=user(name) if name else {})
    assert response.status_code == 200, response.text
    assert response.headers["Cache-Control"] == "no-store"
    usage = CallerUsage.model_validate(response.json())
    assert usage.complete
    found = {}
    for each in response.json()["limits"]:
        label = f"{each['policy']} {each['route']}" if each["route"] else each["policy"]
        suffix = f".{each['limit_name']}" if label in found else ""
        found[label + suffix] = each
    return found


def remaining(client: TestClient, name: str = "alice", path: str = "/usage") -> dict[str, int]:
    return {label: each["remaining"] for label, each in read(client, name, path).items()}


POLICIES = PolicySet(
    [
        Policy("default", "100/minute"),
        Policy(
            "exports",
            tiers={"free": "5/minute", "pro": (Limit.rate("60/minute"), Limit.rate("1000/day"))},
            match=Match(frozenset({"POST"}), ("/exports",)),
        ),
        Policy("per-route", "7/minute", key=("principal", "route"), match=Match(routes=("/r/*",))),
        Policy("gold", "9/minute", match=Match(routes=("/gold",), tiers=frozenset({"gold"}))),
        Policy("shadow", "1/minute", mode="shadow", match=Match(routes=("/shadow",))),
        Policy("off", "1/minute", mode="off", match=Match(routes=("/off",))),
        Policy("by-name", "3/minute"),
        Policy("unused", "3/minute"),
    ]
)


def make_app(lifespan: Fleetlimit, *, middleware: bool = True) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    for path in ("/items", "/r/a", "/r/b", "/gold", "/shadow", "/off"):
        app.get(path)(lambda: None)
    app.post("/exports")(lambda: None)
    app.get("/code", dependencies=[Depends(RateLimit("4/minute"))])(lambda: None)
    app.get("/named", dependencies=[Depends(PolicyLimit("by-name"))])(lambda: None)
    app.include_router(usage_router())
    return app


@pytest.fixture(name="client")
def _client(make_fleetlimit: FleetlimitFactory) -> Iterator[TestClient]:
    with TestClient(make_app(make_fleetlimit(POLICIES, resolver=resolve_user))) as client:
        yield client


def test_usage_lists_all_limits_of_the_caller(client: TestClient) -> None:
    """Policies of the file come with the tier's limits, those in code with their route."""
    assert remaining(client, "alice/pro") == {
        "default": 100,
        "exports": 60,
        "exports.tb86400": 1000,
        "by-name": 3,
        "per-route GET /r/a": 7,
        "per-route GET /r/b": 7,
        "4/60s GET /code": 4,
    }
    assert remaining(client, "bob/free")["exports"] == 5
    assert remaining(client, "carol/gold")["gold"] == 9
    assert "exports.tb86400" not in remaining(client, "bob/free")


def test_usage_spends_nothing_and_shows_what_was_spent(client: TestClient) -> None:
    """Each request is seen in the limits that it spent, and reading is not."""
    for path in ("/items", "/r/a", "/code", "/named"):
        assert client.get(path, headers=user("alice")).status_code == 200
    for _ in range(3):
        found = remaining(client)
    assert found == {
        "default": 97,
        "exports": 5,
        "by-name": 2,
        "per-route GET /r/a": 6,
        "per-route GET /r/b": 7,
        "4/60s GET /code": 3,
    }
    assert remaining(client, "bob")["default"] == 100
    assert remaining(client, "")["default"] == 100


def test_limit_that_refuses_is_among_them(
    client: TestClient, fleetlimit_clock: ManualClock
) -> None:
    """It states when a request passes again, and when the limit is full, as an instant."""
    for _ in range(5):
        client.post("/exports", headers=user("bob/free"))
    rejected = client.post("/exports", headers=user("bob/free"))
    before = datetime.now(UTC)
    exports = read(client, "bob/free")["exports"]
    assert (exports["remaining"], exports["allowed"]) == (0, False)
    assert exports["retry_after_seconds"] == int(rejected.headers["Retry-After"]) == 12
    assert exports["reset_after_seconds"] == 60
    assert exports["reset_at"].endswith("Z")
    reset_at = datetime.fromisoformat(exports["reset_at"])
    assert timedelta(seconds=59) <= reset_at - before <= timedelta(seconds=3600)
    fleetlimit_clock.advance(12)
    assert read(client, "bob/free")["exports"]["allowed"] is True
    fleetlimit_clock.advance(60)
    full = read(client, "bob/free")["exports"]
    assert (full["remaining"], full["reset_after_seconds"], full["reset_at"]) == (5, 0, None)
    assert (full["limit"], full["capacity"], full["window_seconds"]) == (5, 5, 60)
    assert full["algorithm"] == "token_bucket"


def test_usage_is_not_limited_itself(client: TestClient) -> None:
    """A caller whose limits are spent still sees them; no policy counts the requests."""
    for _ in range(101):
        rejected = client.get("/items", headers=user("alice"))
    assert rejected.status_code == 429
    response = client.get("/usage", headers=user("alice"))
    assert response.status_code == 200
    assert "RateLimit" not in response.headers
    assert read(client)["default"]["allowed"] is False


def test_policy_that_names_the_route_limits_it(make_fleetlimit: FleetlimitFactory) -> None:
    """Only the exact template names it: neither `*` nor a policy without routes does."""
    policies = PolicySet(
        [
            Policy("everything", "1/day", match=Match(routes=("*",))),
            Policy("gets", "1/day", match=Match(methods=frozenset({"GET"}))),
            Policy("prefix", "1/day", match=Match(routes=("/us*",))),
            Policy("named", "3/day", match=Match(routes=("/usage",))),
        ]
    )
    with TestClient(make_app_of(make_fleetlimit(policies), middleware=True)) as client:
        codes = [client.get("/usage").status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]


def test_dependency_limits_it(make_fleetlimit: FleetlimitFactory) -> None:
    """A limit in code is written on purpose; other callers are not affected."""
    app = FastAPI(lifespan=make_fleetlimit(resolver=resolve_user))
    app.include_router(usage_router(dependencies=[Depends(RateLimit("2/day"))]))
    with TestClient(app) as client:
        assert [client.get("/usage").status_code for _ in range(3)] == [200, 200, 429]
        assert remaining(client) == {"2/86400s GET /usage": 1}


def test_without_the_middleware_only_limits_in_code_apply(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """Policies by match are not listed where nothing enforces them."""
    app = make_app(make_fleetlimit(POLICIES), middleware=False)
    with TestClient(app) as client:
        assert remaining(client, "") == {"by-name": 3, "4/60s GET /code": 4}


def test_default_limiter_has_the_route_too() -> None:
    """An app without a `Fleetlimit` shows the limits of its dependencies."""
    app = FastAPI()
    app.get("/code", dependencies=[Depends(RateLimit("4/minute"))])(lambda: None)
    app.include_router(usage_router())
    client = TestClient(app)
    client.get("/code")
    assert remaining(client, "") == {"4/60s GET /code": 3}


def test_concurrency_units_in_use_are_shown(make_fleetlimit: FleetlimitFactory) -> None:
    """A limit of requests in progress has no window."""
    app = FastAPI(lifespan=make_fleetlimit())
    inner: list[Found] = []

    @app.get("/slow", dependencies=[Depends(ConcurrencyLimit(4))])
    def slow() -> None:
        inner.append(read(client, ""))

    app.include_router(usage_router())
    with TestClient(app) as client:
        client.get("/slow")
        (during,) = inner
        after = read(client, "")
    (label,) = after
    assert (during[label]["remaining"], after[label]["remaining"]) == (3, 4)
    assert after[label]["window_seconds"] is None
    assert after[label]["algorithm"] == "concurrency"


def test_shared_bucket_is_listed_once(make_fleetlimit: FleetlimitFactory) -> None:
    """A limit with a name is one for all of its routes, and several keys have one bucket each."""
    app = FastAPI(lifespan=make_fleetlimit(resolver=resolve_user))
    shared = Depends(RateLimit("5/minute", name="shared", key="global"))
    for path in ("/a", "/b"):
        app.get(path, dependencies=[shared])(lambda: None)
    app.include_router(usage_router())
    with TestClient(app) as client:
        client.get("/a", headers=user("bob"))
        assert remaining(client) == {"shared": 4}


def by_user(connection: HTTPConnection) -> str:
    return connection.headers["X-User"]


def by_item(connection: HTTPConnection) -> str:
    return str(connection.path_params["item"])


def test_keys_of_other_requests_have_no_state(
    make_fleetlimit: FleetlimitFactory, log: pytest.LogCaptureFixture
) -> None:
    """A header or function of the caller has a state; a path parameter of a route has none here."""
    app = FastAPI(lifespan=make_fleetlimit())
    limits = [
        RateLimit("5/minute", name="header", key="header:X-User"),
        RateLimit("5/minute", name="function", key=by_user),
        RateLimit("5/minute", name="path", key="path:item"),
        RateLimit("5/minute", name="path-function", key=by_item),
    ]

    @app.get("/items/{item}", dependencies=[Depends(each) for each in limits])
    async def items(item: str) -> None: ...

    app.include_router(usage_router())
    with TestClient(app) as client:
        assert client.get("/items/7", headers=user("alice")).status_code == 200
        found = read(client)
    assert {label: each["remaining"] for label, each in found.items()} == {
        "header": 4,
        "function": 4,
        "path GET /items/{item}": None,
        "path-function": None,
    }
    assert found["path-function"]["allowed"] is None
    assert found["path-function"]["limit"] == 5
    assert "key.failed" in log.text


def test_caller_is_named(client: TestClient) -> None:
    """The answer has the verified caller, and never an address."""
    caller = client.get("/usage", headers=user("alice/pro")).json()
    assert (caller["principal"], caller["tier"]) == ("alice", "pro")
    anonymous = client.get("/usage").json()
    assert (anonymous["principal"], anonymous["tier"]) == (None, None)
    assert "testclient" not in str(anonymous)


@pytest.mark.parametrize("middleware", [True, False])
def test_invalid_credential(
    make_fleetlimit: FleetlimitFactory, tmp_path: Path, *, middleware: bool
) -> None:
    """It is rejected where the policy file says so, else counted by address with all tiers."""
    file = tmp_path / "policies.yaml"
    policy = "{name: default, limits: [{rate: 5/minute}]}"
    for reject, status in (("true", 401), ("false", 200)):
        file.write_text(
            f"version: 1\nidentity: {{reject_invalid: {reject}}}\npolicies: [{policy}]\n"
        )
        app = make_app_of(make_fleetlimit(file, resolver=resolve_user), middleware=middleware)
        with TestClient(app) as client:
            response = client.get("/usage", headers=user("mallory"))
        assert response.status_code == status


def make_app_of(lifespan: Fleetlimit, *, middleware: bool) -> FastAPI:
    app = FastAPI(lifespan=lifespan)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    app.include_router(usage_router())
    return app


def test_unavailable_store_is_a_503(
    make_fleetlimit: FleetlimitFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is a problem with `Retry-After`, never a wrong state."""
    fleetlimit = make_fleetlimit(POLICIES)

    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("no answer", kind="timeout")

    monkeypatch.setattr(fleetlimit.limiter.store, "acquire", fail)
    with TestClient(make_app(fleetlimit)) as client:
        response = client.get("/usage")
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Retry-After"] == "1"
    assert response.json()["type"].endswith("#temporary-reduced-capacity")


def test_mounted_apps_share_or_have_their_own_limits(make_fleetlimit: FleetlimitFactory) -> None:
    """A mounted app without a limiter shows all limits; one with its own shows its own."""
    outer = FastAPI(lifespan=make_fleetlimit(PolicySet([Policy("default", "5/minute")])))
    outer.add_middleware(RateLimitMiddleware)
    outer.get("/code", dependencies=[Depends(RateLimit("4/minute"))])(lambda: None)
    sharing, owning = FastAPI(), FastAPI()
    own = make_fleetlimit(PolicySet([Policy("default", "9/minute")]))
    for app, rate in ((sharing, "3/minute"), (owning, "2/minute")):
        app.get("/code", dependencies=[Depends(RateLimit(rate))])(lambda: None)
        app.include_router(usage_router())
    outer.include_router(usage_router())
    outer.mount("/sharing", sharing)
    outer.mount("/owning", owning)
    with TestClient(outer) as client:
        client.portal.call(own._start)  # type: ignore[union-attr]  # as its lifespan would
        own.install(owning)
        everything = {
            "default": 5,
            "4/60s GET /code": 4,
            "3/60s GET /sharing/code": 3,
        }
        assert remaining(client, "") == everything
        assert remaining(client, "", "/sharing/usage") == everything
        assert remaining(client, "", "/owning/usage") == {"2/60s GET /owning/code": 2}
        client.portal.call(own.aclose)  # type: ignore[union-attr]  # as above


def test_one_call_of_the_store_and_a_bound(
    make_fleetlimit: FleetlimitFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many routes there are, one call looks at a bounded number of buckets."""
    fleetlimit = make_fleetlimit()
    app = FastAPI(lifespan=fleetlimit)
    for number in range(MAX_BUCKETS + 5):
        app.get(f"/{number}", dependencies=[Depends(RateLimit("5/minute"))])(lambda: None)
    app.include_router(usage_router())
    calls: list[int] = []
    acquire = fleetlimit.limiter.store.acquire

    async def count(charges: Any, **options: Any) -> Any:
        calls.append(len(charges))
        return await acquire(charges, **options)

    monkeypatch.setattr(fleetlimit.limiter.store, "acquire", count)
    with TestClient(app) as client:
        usage = client.get("/usage").json()
    assert calls == [MAX_BUCKETS]
    assert len(usage["limits"]) == MAX_BUCKETS
    assert usage["complete"] is False


class Recorder:
    """Observer that counts decisions."""

    decided = 0

    def on_event(self, event: Event) -> None:
        """Count a decision."""
        self.decided += isinstance(event, CheckDecided)


def test_reading_is_no_decision(make_fleetlimit: FleetlimitFactory) -> None:
    """It changes no counter of admissions; only the check of the middleware, of nothing, does."""
    recorder = Recorder()
    app = make_app(make_fleetlimit(POLICIES, observers=[recorder]), middleware=False)
    with TestClient(app) as client:
        client.get("/usage")
    assert recorder.decided == 0


def test_limits_that_are_off_are_not_listed(client: TestClient) -> None:
    """Under `unlimited()` nothing is limited."""
    with unlimited():
        assert read(client) == {}


def test_route_and_schema_can_be_chosen(make_fleetlimit: FleetlimitFactory) -> None:
    """Path, prefix, tags and name are those of `APIRouter`; the model is in the schema."""
    app = FastAPI(lifespan=make_fleetlimit())
    app.include_router(usage_router("/limits", prefix="/me", tags=["account"], name="limits"))
    app.include_router(usage_router("/hidden", include_in_schema=False), prefix="/v1")
    nested = APIRouter()
    nested.include_router(usage_router())
    app.include_router(nested, prefix="/v2")
    with TestClient(app) as client:
        for path in ("/me/limits", "/v1/hidden", "/v2/usage"):
            assert client.get(path).json()["limits"] == []
    assert app.url_path_for("limits") == "/me/limits"
    schema = app.openapi()
    operation = schema["paths"]["/me/limits"]["get"]
    assert operation["tags"] == ["account"]
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/CallerUsage"
    }
    assert "503" in operation["responses"]
    assert "/v1/hidden" not in schema["paths"]
    limit = schema["components"]["schemas"]["LimitUsage"]["properties"]
    assert limit["reset_at"]["anyOf"][0] == {"type": "string", "format": "date-time"}


@pytest.mark.parametrize("path", ["usage", "", None])
def test_path_without_a_slash_is_an_error(path: Any) -> None:
    """The message has the path to write."""
    with pytest.raises(ConfigError, match=r'write usage_router\("/usage"\)'):
        usage_router(path)


def test_routers_arguments_are_advised() -> None:
    """An argument of `APIRouter` that there is not is an error with the call to write."""
    untyped: Any = usage_router
    with pytest.raises(TypeError, match=r"has no argument 'tag': write tags="):
        untyped(tag="account")
    with pytest.raises(TypeError, match="positional"):
        untyped("/usage", "/me")


def test_correction_of_a_cost_is_seen(make_fleetlimit: FleetlimitFactory) -> None:
    """What a request gives back is there again."""
    app = FastAPI(lifespan=make_fleetlimit())

    @app.get("/")
    async def work(limit: Annotated[Reservation, Depends(RateLimit("9/day", cost=5))]) -> None:
        await limit.commit(2)

    app.include_router(usage_router())
    with TestClient(app) as client:
        client.get("/")
        assert remaining(client, "") == {"9/86400s GET /": 7}


def is_staff(connection: HTTPConnection) -> bool:
    return connection.headers.get("X-User") == "staff"


def test_exempt_callers_and_routes_have_no_limits(make_fleetlimit: FleetlimitFactory) -> None:
    """A limit is listed unless the caller is exempt from it on each of its routes."""
    policies = PolicySet(
        [
            Policy("default", "9/minute", exempt=is_staff),
            Policy(
                "tiers", "8/minute", match=Match(routes=("/a",)), exempt=Exemption(tiers=["gold"])
            ),
            Policy(
                "routes",
                "7/minute",
                match=Match(routes=("/a", "/b")),
                exempt=Exemption(routes=["/a"]),
            ),
            Policy(
                "each-route",
                "6/minute",
                key=("principal", "route"),
                match=Match(routes=("/a", "/b")),
                exempt=Exemption(routes=["/a"]),
            ),
        ]
    )
    app = FastAPI(
        lifespan=make_fleetlimit(
            policies, resolver=resolve_user, exempt=Exemption(principals=["root"])
        )
    )
    app.add_middleware(RateLimitMiddleware)
    for path in ("/a", "/b", "/c"):
        app.get(path)(lambda: None)
    app.include_router(usage_router())
    with TestClient(app) as client:
        everything = {"default": 9, "tiers": 8, "routes": 7, "each-route GET /b": 6}
        assert remaining(client, "alice") == everything
        assert remaining(client, "alice/gold") == {
            k: v for k, v in everything.items() if k != "tiers"
        }
        assert "default" not in remaining(client, "staff")
        assert read(client, "root") == {}


def test_reload_new_routes_and_overrides_are_seen(make_fleetlimit: FleetlimitFactory) -> None:
    """What the limits are found from is cached, and never outlives a change."""
    fleetlimit = make_fleetlimit(PolicySet([Policy("default", "5/minute")]))
    limit = RateLimit("4/minute")
    app = FastAPI(lifespan=fleetlimit)
    app.add_middleware(RateLimitMiddleware)
    app.get("/code", dependencies=[Depends(limit)])(lambda: None)
    app.include_router(usage_router())
    with TestClient(app) as client:
        for _ in range(2):
            assert remaining(client, "") == {"default": 5, "4/60s GET /code": 4}
        app.dependency_overrides[limit] = lambda: None
        assert remaining(client, "") == {"default": 5}
        app.dependency_overrides[limit] = RateLimit("3/minute")
        assert remaining(client, "") == {"default": 5, "3/60s GET /code": 3}
        app.dependency_overrides.clear()
        assert remaining(client, "") == {"default": 5, "4/60s GET /code": 4}
        app.get("/new", dependencies=[Depends(RateLimit("2/minute"))])(lambda: None)
        assert remaining(client, "")["2/60s GET /new"] == 2
        fleetlimit.limiter.active_policies.replace(PolicySet([Policy("default", "9/minute")]))
        assert remaining(client, "")["default"] == 9


@pytest.mark.parametrize("middleware", [True, False])
def test_limit_of_all_routes_does_not_limit_it(
    make_fleetlimit: FleetlimitFactory, *, middleware: bool
) -> None:
    """A caller that an app's own dependency rejects still sees the limit."""
    everywhere = Depends(RateLimit("2/minute", name="everywhere", cost=lambda _: 1))
    app = FastAPI(lifespan=make_fleetlimit(), dependencies=[everywhere])
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    app.get("/a")(lambda: None)
    own = RateLimit("4/minute", name="own")
    app.include_router(usage_router(dependencies=[Depends(own)]), dependencies=[Depends(SLOTS)])
    with TestClient(app) as client:
        assert remaining(client, "") == {"everywhere": 2, "own": 3}
        assert [client.get("/a").status_code for _ in range(3)] == [200, 200, 429]
        assert remaining(client, "") == {"everywhere": 0, "own": 2}
        assert [client.get("/usage").status_code for _ in range(3)] == [200, 200, 429]
        assert "x-ratelimit" in app.openapi()["paths"]["/usage"]["get"]


SLOTS = ConcurrencyLimit(1, name="slots")


async def plans(principal: Principal, policy: str) -> str | None:
    """Return a caller's own limit."""
    return "50/minute" if (principal.name, policy) == ("alice", "default") else None


def by_header(connection: HTTPConnection) -> str | None:
    return connection.headers.get("X-Limit")


def test_own_limits_of_the_caller_are_shown(make_fleetlimit: FleetlimitFactory) -> None:
    """Limits from a provider or a function replace those of the policy, as they do in a check."""
    policies = PolicySet([Policy("default", "5/minute"), Policy("by-path", "4/hour", key="path:a")])
    app = FastAPI(lifespan=make_fleetlimit(policies, resolver=resolve_user, limits=plans))
    app.add_middleware(RateLimitMiddleware)
    app.get("/code", dependencies=[Depends(RateLimit(by_header, default="3/minute", name="f"))])(
        lambda: None
    )
    app.get("/{a}", dependencies=[Depends(PolicyLimit("by-path"))])(lambda: None)
    app.include_router(usage_router("/u/usage"))
    with TestClient(app) as client:
        client.get("/code", headers={**user("alice"), "X-Limit": "8/minute"})
        response = client.get("/u/usage", headers={**user("alice"), "X-Limit": "8/minute"})
        found = {each["policy"]: each["remaining"] for each in response.json()["limits"]}
        assert found == {"default": 49, "f": 7, "by-path": None}
        assert remaining(client, "bob", "/u/usage") == {
            "default": 5,
            "f": 3,
            "by-path GET /{a}": None,
        }

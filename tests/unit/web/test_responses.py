"""What clients are told: fields on every answer, problem details on refusals."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.testclient import TestClient

from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.exceptions import RateLimitExceeded, RequestRejected, make_exception
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.ratelimit_headers import HeaderFormat
from fleetlimit.web.responses import RATE_LIMIT_RESPONSES, RejectionResponse
from support.web import (
    LimiterBench,
    assert_each_once,
    caller,
    http_scope,
    parse_limits,
    rate_policy,
)

Door = Callable[[LimiterBench], FastAPI]


async def items(response: Response) -> dict[str, str]:
    response.headers["X-Own"] = "kept"
    response.headers["Cache-Control"] = "max-age=60"
    return {"status": "ok"}


def by_dependency(bench: LimiterBench) -> FastAPI:
    app = bench.install(FastAPI())
    app.get("/items", dependencies=[Depends(PolicyLimit("default"))])(items)
    return app


def by_middleware(bench: LimiterBench) -> FastAPI:
    app = bench.install(FastAPI())
    app.get("/items")(items)
    app.add_middleware(RateLimitMiddleware)
    return app


doors = pytest.mark.parametrize("door", [by_dependency, by_middleware])


@doors
def test_allowed(door: Door) -> None:
    """An allowed request carries both fields, and the endpoint's own headers are kept."""
    response = TestClient(door(LimiterBench(rate_policy("default", "5/minute")))).get("/items")
    assert response.status_code == 200
    assert parse_limits(response) == {"default": {"q": 5, "w": 60, "r": 4, "t": 12}}
    assert response.headers["X-Own"] == "kept"
    assert response.headers["Cache-Control"] == "max-age=60"
    assert "Retry-After" not in response.headers


@doors
def test_refused(door: Door) -> None:
    """A refusal is 429 with Retry-After, both fields, no-store and problem details."""
    client = TestClient(door(LimiterBench(rate_policy("default", "1/minute"))))
    client.get("/items")
    response = client.get("/items")
    assert response.status_code == 429
    assert parse_limits(response) == {"default": {"q": 1, "w": 60, "r": 0, "t": 60}}
    assert response.headers["Retry-After"] == "60"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Request cannot be satisfied as assigned quota has been exceeded",
        "status": 429,
        "detail": "The quota of default is spent; try again in 60 s.",
        "violated-policies": ["default"],
    }


@doors
def test_several_limits_in_one_field(door: Door) -> None:
    """The limits of a policy are members of one list, in one field."""
    bench = LimiterBench(rate_policy("default", "5/minute", "100/hour"))
    assert parse_limits(TestClient(door(bench)).get("/items")) == {
        "default.tb60": {"q": 5, "w": 60, "r": 4, "t": 12},
        "default.tb3600": {"q": 100, "w": 3600, "r": 99, "t": 36},
    }


@doors
def test_store_down_and_deny(door: Door) -> None:
    """With the store down a policy that denies answers 503, with problem details and a wait."""
    bench = LimiterBench(rate_policy("default", "5/minute", on_store_error=OnStoreError.DENY))
    bench.store.unavailable = True
    response = TestClient(door(bench)).get("/items")
    assert response.status_code == 503
    assert parse_limits(response) == {"default": {"q": 5, "w": 60}}
    assert response.headers["Retry-After"] == "1"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "Request cannot be satisfied due to temporary server capacity constraints",
        "status": 503,
        "detail": "The limit cannot be checked at the moment; try again in 1 s.",
        "violated-policies": ["default"],
    }


@doors
def test_store_down_and_allow_or_local(door: Door) -> None:
    """With the store down a policy that allows, or counts locally, answers as ever: no 500."""
    for mode, found in ((OnStoreError.ALLOW, [200, 200]), (OnStoreError.LOCAL, [200, 429])):
        bench = LimiterBench(rate_policy("default", "1/minute", on_store_error=mode))
        bench.store.unavailable = True
        client = TestClient(door(bench))
        assert [client.get("/items").status_code for _ in range(2)] == found


@doors
def test_shadow_refuses_nobody(door: Door) -> None:
    """A policy in shadow answers 200 when it would refuse."""
    client = TestClient(door(LimiterBench(rate_policy("default", "1/minute", mode=Mode.SHADOW))))
    assert [client.get("/items").status_code for _ in range(3)] == [200, 200, 200]


@doors
def test_waiting_as_told_is_enough(door: Door) -> None:
    """Who waits exactly as long as Retry-After says is let in, and not a second earlier."""
    for text in ("3/minute", "7/second", "1/hour"):
        bench = LimiterBench(rate_policy("default", text))
        client = TestClient(door(bench))
        while (response := client.get("/items")).status_code == 200:
            pass
        wait = int(response.headers["Retry-After"])
        assert wait >= max(each["t"] for each in parse_limits(response).values())
        bench.clock.advance(wait - 1)
        if wait > 1:
            assert client.get("/items").status_code == 429
        bench.clock.advance(1)
        assert client.get("/items").status_code == 200


@doors
def test_bad_credential_is_refused_and_counted(door: Door) -> None:
    """Where bad credentials are refused it is 401, and the guess is counted by address."""
    bench = LimiterBench(rate_policy("default", "2/minute"), reject_invalid=True)
    client = TestClient(door(bench))
    response = client.get("/items", headers=caller("nobody"))
    assert response.status_code == 401
    assert_each_once(response.headers)
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "The credential was not accepted: unknown_caller.",
    }
    assert client.get("/items").status_code == 200
    assert client.get("/items", headers=caller("nobody")).status_code == 429
    assert client.get("/items", headers=caller("ann")).status_code == 200


@doors
def test_bad_credential_counts_by_address(door: Door) -> None:
    """Where bad credentials are let in they share their address's bucket."""
    client = TestClient(door(LimiterBench(rate_policy("default", "1/minute"))))
    assert client.get("/items", headers=caller("nobody")).status_code == 200
    assert client.get("/items").status_code == 429


@doors
@pytest.mark.parametrize(
    ("dialect", "allowed", "refused"),
    [
        (HeaderFormat.NONE, [None, None, None], [None, None, None]),
        (HeaderFormat.X_RATELIMIT, ["1", "0", "60"], ["1", "0", "60"]),
    ],
)
def test_dialects(
    door: Door, dialect: HeaderFormat, allowed: list[Any], refused: list[Any]
) -> None:
    """Other dialects have other fields, and always Retry-After on a refusal."""
    client = TestClient(
        door(LimiterBench(rate_policy("default", "1/minute"), header_format=dialect))
    )
    names = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    response = client.get("/items")
    assert [response.headers.get(name) for name in names] == allowed
    assert "RateLimit" not in response.headers
    response = client.get("/items")
    assert [response.headers.get(name) for name in names] == refused
    assert response.headers["Retry-After"] == "60"
    assert_each_once(response.headers)


def test_epoch_dialect() -> None:
    """The reset can be told as a Unix time."""
    bench = LimiterBench(
        rate_policy("default", "1/minute"), header_format=HeaderFormat.X_RATELIMIT_EPOCH
    )
    client = TestClient(by_middleware(bench))
    reset = int(client.get("/items").headers["X-RateLimit-Reset"])
    later = int(client.get("/items").headers["X-RateLimit-Reset"])
    assert later >= reset > 1_700_000_000


def test_own_handler_for_http_exceptions() -> None:
    """A handler for all HTTP errors leaves refusals as they are: always well-formed."""
    app = by_dependency(LimiterBench(rate_policy("default", "1/minute")))

    @app.exception_handler(HTTPException)
    async def uniform(_request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"own": error.status_code}, error.status_code)

    client = TestClient(app)
    client.get("/items")
    response = client.get("/items")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "Retry-After" in response.headers


@pytest.mark.parametrize("kind", [429, RateLimitExceeded, RequestRejected])
def test_own_handler_for_refusals(kind: Any) -> None:
    """A handler for 429, or for `Refused`, answers in its own way and has all it needs."""
    app = by_dependency(LimiterBench(rate_policy("default", "1/minute")))

    @app.exception_handler(kind)
    async def own(_request: Request, error: RequestRejected) -> JSONResponse:
        detail = error.response.body.decode()
        return JSONResponse({"own": detail}, 418, headers=dict(error.headers or {}))

    client = TestClient(app)
    client.get("/items")
    response = client.get("/items")
    assert response.status_code == 418
    assert "quota-exceeded" in response.json()["own"]
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Retry-After"] == "60"
    assert_each_once(response.headers)


def test_refusal_where_nobody_handles_errors() -> None:
    """Without an app's error handling the refusal is the plain HTTP error it is, with a wait."""
    refusal = RejectionResponse(429, [("Content-Type", "x"), ("Retry-After", "7")], b"")
    error = make_exception(refusal, None, HTTPConnection(http_scope()))
    assert (error.status_code, error.headers) == (429, {"Retry-After": "7"})


@doors
def test_cost_above_the_limit(door: Door) -> None:
    """A cost that could never pass is 413 without Retry-After: waiting would be for ever."""
    app = door(LimiterBench(rate_policy("default", "10/minute")))
    cost = RateLimit("10/minute", cost=lambda at: int(at.query_params["rows"]))
    app.post("/rows", dependencies=[Depends(cost)])(items)
    client = TestClient(app)
    response = client.post("/rows?rows=11")
    assert response.status_code == 413
    assert parse_limits(response) == {}
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert "Retry-After" not in response.headers
    assert response.json() == {
        "type": "about:blank",
        "title": "Content Too Large",
        "status": 413,
        "detail": "a cost of 11 can never pass a limit that holds 10.",
    }
    assert parse_limits(client.post("/rows?rows=10"))["10/60s"]["r"] == 0


def test_openapi_documents_problem_details() -> None:
    """`responses=RESPONSES` documents 429 and 503 as problem details, with their fields."""
    app = FastAPI(responses=RATE_LIMIT_RESPONSES)
    app.get("/items", dependencies=[Depends(RateLimit("1/minute"))])(items)
    documented = app.openapi()["paths"]["/items"]["get"]["responses"]
    for status in ("429", "503"):
        assert list(documented[status]["content"]) == ["application/problem+json"]
        schema = documented[status]["content"]["application/problem+json"]["schema"]
        assert {"type", "title", "status", "detail", "violated-policies"} <= set(
            schema["properties"]
        )
        assert {"Retry-After", "RateLimit", "RateLimit-Policy"} == set(
            documented[status]["headers"]
        )
    assert "parameters" not in app.openapi()["paths"]["/items"]["get"]

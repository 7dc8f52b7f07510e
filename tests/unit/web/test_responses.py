"""Responses: limit headers on every one, problem details on rejections."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.testclient import TestClient

from fleetlimit.core.decision import EXEMPT
from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.errors import IdentityError
from fleetlimit.identity import ClientAddressResolver, RequestIdentifier
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.exceptions import (
    CostTooLarge,
    CredentialsUnverified,
    InvalidCredentials,
    RateLimitExceeded,
    RequestRejected,
    make_exception,
)
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.ratelimit_headers import HeaderFormat
from fleetlimit.web.responses import (
    RATE_LIMIT_RESPONSES,
    RejectionCause,
    RejectionResponse,
    credential_response,
)
from support.limiter import rate_policy
from support.web import LimiterBench, assert_each_once, caller, http_scope, parse_limits

AppFactory = Callable[[LimiterBench], FastAPI]


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


by_both = pytest.mark.parametrize("make_app", [by_dependency, by_middleware])


@by_both
def test_admitted_response_has_limit_headers(make_app: AppFactory) -> None:
    """An admitted request has both headers, and the endpoint's own are kept."""
    response = TestClient(make_app(LimiterBench(rate_policy("default", "5/minute")))).get("/items")
    assert response.status_code == 200
    assert parse_limits(response) == {"default": {"q": 5, "w": 60, "r": 4, "t": 12}}
    assert response.headers["X-Own"] == "kept"
    assert response.headers["Cache-Control"] == "max-age=60"
    assert "Retry-After" not in response.headers


@by_both
def test_rejection_is_a_429_with_problem_details(make_app: AppFactory) -> None:
    """A rejection is 429 with Retry-After, both headers, no-store and problem details."""
    client = TestClient(make_app(LimiterBench(rate_policy("default", "1/minute"))))
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


@by_both
def test_several_limits_share_one_header(make_app: AppFactory) -> None:
    """The limits of a policy are items of one list, in one header."""
    bench = LimiterBench(rate_policy("default", "5/minute", "100/hour"))
    assert parse_limits(TestClient(make_app(bench)).get("/items")) == {
        "default.tb60": {"q": 5, "w": 60, "r": 4, "t": 12},
        "default.tb3600": {"q": 100, "w": 3600, "r": 99, "t": 36},
    }


@by_both
def test_unavailable_store_and_deny_is_503(make_app: AppFactory) -> None:
    """While the store is unavailable a policy that denies sends 503 with a wait."""
    bench = LimiterBench(rate_policy("default", "5/minute", on_store_error=OnStoreError.DENY))
    bench.store.unavailable = True
    response = TestClient(make_app(bench)).get("/items")
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


@by_both
def test_unavailable_store_and_allow_or_local_is_no_error(make_app: AppFactory) -> None:
    """While the store is unavailable a policy that allows, or counts locally, sends no 500."""
    for mode, found in ((OnStoreError.ALLOW, [200, 200]), (OnStoreError.LOCAL, [200, 429])):
        bench = LimiterBench(rate_policy("default", "1/minute", on_store_error=mode))
        bench.store.unavailable = True
        client = TestClient(make_app(bench))
        assert [client.get("/items").status_code for _ in range(2)] == found


@pytest.mark.parametrize(
    ("scheme", "challenge"),
    [
        ("Bearer", 'Bearer error="invalid_token"'),
        ("APIKey", "APIKey"),
        ("Cookie", "Cookie"),
    ],
)
def test_challenge_names_the_scheme_that_failed(scheme: str, challenge: str) -> None:
    """`WWW-Authenticate` is for the credential that was presented (RFC 9110, 11.6.1)."""
    error = IdentityError("no", reason="expired", scheme=scheme)
    response = credential_response(error, "")
    assert dict(response.headers)["WWW-Authenticate"] == challenge
    assert json.loads(response.body)["detail"] == "The credential was not accepted: expired."


@by_both
def test_shadow_policy_rejects_no_request(make_app: AppFactory) -> None:
    """A policy in shadow mode sends 200 where it would reject."""
    client = TestClient(
        make_app(LimiterBench(rate_policy("default", "1/minute", mode=Mode.SHADOW)))
    )
    assert [client.get("/items").status_code for _ in range(3)] == [200, 200, 200]


@by_both
def test_waiting_for_retry_after_is_enough(make_app: AppFactory) -> None:
    """A client is admitted exactly after Retry-After, and not a second earlier."""
    for text in ("3/minute", "7/second", "1/hour"):
        bench = LimiterBench(rate_policy("default", text))
        client = TestClient(make_app(bench))
        while (response := client.get("/items")).status_code == 200:
            pass
        wait = int(response.headers["Retry-After"])
        assert wait >= max(each["t"] for each in parse_limits(response).values())
        bench.clock.advance(wait - 1)
        if wait > 1:
            assert client.get("/items").status_code == 429
        bench.clock.advance(1)
        assert client.get("/items").status_code == 200


@by_both
def test_invalid_credential_is_a_401_and_counts(make_app: AppFactory) -> None:
    """With `reject_invalid` it is 401, and the attempt counts by address."""
    bench = LimiterBench(rate_policy("default", "2/minute"), reject_invalid=True)
    client = TestClient(make_app(bench))
    response = client.get("/items", headers=caller("invalid"))
    assert response.status_code == 401
    assert_each_once(response.headers)
    assert response.headers["WWW-Authenticate"] == "Custom"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "The credential was not accepted: unknown_caller.",
    }
    assert client.get("/items").status_code == 200
    assert client.get("/items", headers=caller("invalid")).status_code == 429
    assert client.get("/items", headers=caller("ann")).status_code == 200


@by_both
def test_unverified_credential_is_a_503_and_counts(make_app: AppFactory) -> None:
    """A credential that may be valid is not called invalid; the attempt counts by address."""
    bench = LimiterBench(rate_policy("default", "2/minute"), reject_invalid=True)

    async def resolve(_request: object) -> None:
        raise IdentityError("the directory is down", reason="directory_down", retry_after=7)

    bench.http_limiter.identifier = RequestIdentifier(ClientAddressResolver(), resolver=resolve)
    client = TestClient(make_app(bench))
    response = client.get("/items")
    assert response.status_code == 503
    assert_each_once(response.headers)
    assert response.headers["Retry-After"] == "7"
    assert "WWW-Authenticate" not in response.headers
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The credential cannot be verified at the moment: directory_down; try again in "
        "7 s.",
    }
    assert [client.get("/items").status_code for _ in range(2)] == [503, 429]


@by_both
def test_failing_resolver_is_a_503(make_app: AppFactory) -> None:
    """An exception of the app's own resolver says nothing of the credential."""
    bench = LimiterBench(rate_policy("default", "2/minute"), reject_invalid=True)

    async def resolve(_request: object) -> None:
        raise OSError("no route to the directory")

    bench.http_limiter.identifier = RequestIdentifier(ClientAddressResolver(), resolver=resolve)
    response = TestClient(make_app(bench)).get("/items")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert "resolver_failed" in response.json()["detail"]


@by_both
def test_invalid_credential_counts_by_address(make_app: AppFactory) -> None:
    """Without `reject_invalid` the request shares its address's bucket."""
    client = TestClient(make_app(LimiterBench(rate_policy("default", "1/minute"))))
    assert client.get("/items", headers=caller("invalid")).status_code == 200
    assert client.get("/items").status_code == 429


@by_both
@pytest.mark.parametrize(
    ("header_format", "admitted", "rejected"),
    [
        (HeaderFormat.NONE, [None, None, None], [None, None, None]),
        (HeaderFormat.X_RATELIMIT, ["1", "0", "60"], ["1", "0", "60"]),
    ],
)
def test_header_formats(
    make_app: AppFactory, header_format: HeaderFormat, admitted: list[Any], rejected: list[Any]
) -> None:
    """Other formats have other headers, and always Retry-After on a rejection."""
    client = TestClient(
        make_app(LimiterBench(rate_policy("default", "1/minute"), header_format=header_format))
    )
    names = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
    response = client.get("/items")
    assert [response.headers.get(name) for name in names] == admitted
    assert "RateLimit" not in response.headers
    response = client.get("/items")
    assert [response.headers.get(name) for name in names] == rejected
    assert response.headers["Retry-After"] == "60"
    assert_each_once(response.headers)


def test_epoch_format_gives_a_unix_time() -> None:
    """The reset can be a Unix time."""
    bench = LimiterBench(
        rate_policy("default", "1/minute"), header_format=HeaderFormat.X_RATELIMIT_EPOCH
    )
    client = TestClient(by_middleware(bench))
    reset = int(client.get("/items").headers["X-RateLimit-Reset"])
    later = int(client.get("/items").headers["X-RateLimit-Reset"])
    assert later >= reset > 1_700_000_000


def test_handler_for_http_exceptions_leaves_rejections() -> None:
    """A handler for all HTTP errors leaves rejections as they are: always well formed."""
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
def test_handler_for_rejections_replaces_the_response(kind: Any) -> None:
    """A handler for 429 or for an exception class sends its own response."""
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


@pytest.mark.parametrize(
    ("status", "cause", "kind", "retry_after"),
    [
        (429, RejectionCause.LIMIT, RateLimitExceeded, 7),
        (503, RejectionCause.LIMIT, RateLimitExceeded, 7),
        (401, RejectionCause.CREDENTIAL_INVALID, InvalidCredentials, None),
        (503, RejectionCause.CREDENTIAL_UNVERIFIED, CredentialsUnverified, 7),
        (413, RejectionCause.COST, CostTooLarge, None),
    ],
)
def test_exception_class_names_the_cause(
    status: int, cause: RejectionCause, kind: type[RequestRejected], retry_after: int | None
) -> None:
    """Each cause has its class, with the response, the decision and the wait."""
    headers = [("Retry-After", "7")] if retry_after else []
    response = RejectionResponse(status, headers, b"", cause=cause)
    error = make_exception(response, EXEMPT, HTTPConnection(http_scope()))
    assert type(error) is kind
    assert error.response is response
    assert error.decision is EXEMPT
    assert error.retry_after == retry_after


def test_exception_has_the_decision_where_there_is_one() -> None:
    """A spent limit has its decision; a cost above the limit was rejected without one."""
    app = LimiterBench().install(FastAPI())
    one = Depends(RateLimit("1/minute", key="global"))
    app.get("/items", dependencies=[one])(items)
    app.get("/rows", dependencies=[Depends(RateLimit("9/day", cost=lambda _: 10))])(items)
    errors: list[RequestRejected] = []

    @app.exception_handler(RequestRejected)
    async def collect(_request: Request, error: RequestRejected) -> JSONResponse:
        errors.append(error)
        return JSONResponse({}, error.status_code)

    client = TestClient(app)
    for path in ("/items", "/items", "/rows"):
        client.get(path)
    exceeded, too_large = errors
    assert isinstance(exceeded, RateLimitExceeded)
    assert exceeded.decision is not None
    assert exceeded.decision.denied_by == ("1/60s-global",)
    assert exceeded.retry_after == 60
    assert isinstance(too_large, CostTooLarge)
    assert too_large.decision is None


def test_rejection_without_an_app_is_a_plain_http_error() -> None:
    """Without an app's exception handlers the rejection is an HTTP error with a wait."""
    response = RejectionResponse(
        429, [("Content-Type", "x"), ("Retry-After", "7")], b"", cause=RejectionCause.LIMIT
    )
    error = make_exception(response, None, HTTPConnection(http_scope()))
    assert (error.status_code, error.headers) == (429, {"Retry-After": "7"})


@by_both
def test_cost_above_the_limit_is_a_413(make_app: AppFactory) -> None:
    """A cost that can never be admitted is 413 without Retry-After."""
    app = make_app(LimiterBench(rate_policy("default", "10/minute")))
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


def test_openapi_documents_rejections() -> None:
    """`RATE_LIMIT_RESPONSES` documents 429 and 503 as problem details, with their headers."""
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

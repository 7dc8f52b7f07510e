"""`assert_limited` and `spent_units`: assertions for the tests of an app."""

from collections.abc import Callable
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Response
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

from fleetlimit import (
    ConcurrencyLimit,
    ConfigError,
    Fleetlimit,
    Limit,
    Policy,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
    Settings,
)
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.testing import (
    FleetlimitFactory,
    ManualClock,
    assert_limited,
    assert_limited_async,
    spent_units,
    unlimited,
)


def limited_app(lifespan: Fleetlimit) -> FastAPI:
    """Return an app with a limit of 5, and with routes that answer in several ways."""
    app = FastAPI(lifespan=lifespan)
    limit = [Depends(RateLimit("5/minute"))]
    app.post("/exports", dependencies=limit, status_code=202)(lambda: None)
    app.get("/free")(lambda: None)

    @app.get("/missing", dependencies=limit)
    async def missing() -> Response:
        return JSONResponse({}, 404)

    @app.get("/large", dependencies=[Depends(RateLimit("1/day", cost=lambda _: 2))])
    async def large() -> None: ...

    return app


@pytest.fixture(name="app")
def _app(fleetlimit: Fleetlimit) -> FastAPI:
    return limited_app(fleetlimit)


def test_assert_limited_passes_at_exactly_the_limit(
    app: FastAPI, fleetlimit_clock: ManualClock
) -> None:
    """It returns the 429, and with the clock also waits as long as the 429 says."""
    with TestClient(app) as client:
        rejected = assert_limited(client, "POST", "/exports", 5, clock=fleetlimit_clock, json={})
        assert rejected.json()["status"] == 429
        fleetlimit_clock.advance(60)
        assert_limited(client, "post", "/exports", 5, status=202)
        fleetlimit_clock.advance(60)
        assert_limited(client, "POST", "/exports", 5, status={200, 202}, headers={"X-A": "b"})


async def test_assert_limited_async(app: FastAPI, fleetlimit: Fleetlimit) -> None:
    """The same with an async client."""
    transport = httpx.ASGITransport(app)
    async with (
        fleetlimit(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        rejected = await assert_limited_async(client, "POST", "/exports", 5)
        assert rejected.status_code == 429
        with pytest.raises(TypeError, match="write `await assert_limited_async"):
            assert_limited(client, "POST", "/exports", 5)  # type: ignore[type-var,unused-coroutine]


async def test_sync_client_of_the_async_assertion_is_an_error(app: FastAPI) -> None:
    """The other way round, too."""
    with (
        TestClient(app) as client,
        pytest.raises(TypeError, match=r"write `assert_limited\(\.\.\.\)` without await"),
    ):
        await assert_limited_async(client, "POST", "/exports", 5)  # type: ignore[arg-type]  # a mistake


FAILURES: dict[str, tuple[Callable[[TestClient], Any], str]] = {
    "too few": (
        lambda client: assert_limited(client, "POST", "/exports", 6),
        r"request 6 of 6 was rejected with 429: .*violated-policies.*the limit is lower, or e",
    ),
    "too many": (
        lambda client: assert_limited(client, "POST", "/exports", 4),
        r"POST /exports: request 5 was admitted with 202, and the limit should be 4$",
    ),
    "not limited": (
        lambda client: assert_limited(client, "GET", "/free", 1),
        r"GET /free: request 2 was admitted with 200",
    ),
    "wrong path": (
        lambda client: assert_limited(client, "GET", "/export", 1),
        r"was answered with 404: .*; if the app means to, write status=404",
    ),
    "wrong method": (
        lambda client: assert_limited(client, "GET", "/exports", 1),
        r"was answered with 405: .*; if the app means to, write status=405",
    ),
    "other status": (
        lambda client: assert_limited(client, "POST", "/exports", 1, status=[201, 200]),
        r"request 1 of 1 was answered with 202, not 200 or 201",
    ),
    "cost above the limit": (
        lambda client: assert_limited(client, "GET", "/large", 1),
        r"request 1 of 1 was rejected with 413",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_says_what_happened(app: FastAPI, name: str) -> None:
    """An assertion that fails has the request, the answer and what to look at."""
    fails, message = FAILURES[name]
    with TestClient(app) as client, pytest.raises(AssertionError, match=message):
        fails(client)


def test_status_of_an_app_that_means_to_answer_404(app: FastAPI) -> None:
    """Routes that answer with an error are limited as well."""
    with TestClient(app) as client:
        assert_limited(client, "GET", "/missing", 5, status=404)


def test_limits_that_are_off_are_named(app: FastAPI) -> None:
    """A forgotten `unlimited()` is in the message."""
    with (
        TestClient(app) as client,
        unlimited(),
        pytest.raises(AssertionError, match=r"the limits are off: unlimited\(\) is active"),
    ):
        assert_limited(client, "POST", "/exports", 5)


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, 5.0, "5", None])
def test_limit_that_is_no_number_of_requests_is_an_error(app: FastAPI, limit: Any) -> None:
    """A limit of 0 or of thousands is judged before a request is sent."""
    with pytest.raises(TypeError, match="write one from 1 to 10,000"):
        assert_limited(TestClient(app), "POST", "/exports", limit)


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (503, {"Retry-After": "1"}, "rejected with 503 in place of 429"),
        (429, {}, "Retry-After ''"),
        (429, {"Retry-After": "0"}, "Retry-After '0'"),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, "not a number of seconds"),
        (429, {"Retry-After": "1", "RateLimit": "r=0;t=1"}, "invalid RateLimit: "),
        (429, {"Retry-After": "1", "RateLimit-Policy": '"a";q'}, "invalid RateLimit-Policy: "),
    ],
)
def test_429_needs_valid_fields(status: int, headers: dict[str, str], message: str) -> None:
    """A 429 of the app's own that clients cannot use fails the assertion."""
    app, answers = FastAPI(), [status, 200]

    @app.get("/")
    async def read() -> Response:
        return JSONResponse({}, answers.pop(), headers)

    client = TestClient(app)
    with pytest.raises(AssertionError, match=message):
        assert_limited(client, "GET", "/", 1)


@pytest.mark.parametrize("headers", ["draft-11", "x-ratelimit", "x-ratelimit-epoch", "none"])
def test_assert_limited_with_each_header_format(
    make_fleetlimit: FleetlimitFactory, fleetlimit_clock: ManualClock, headers: Any
) -> None:
    """The middleware's rejections are valid in each format of the headers."""
    policies = PolicySet([Policy("default", ("3/minute", "5/day"))])
    app = FastAPI(lifespan=make_fleetlimit(policies, settings=Settings(headers=headers)))
    app.add_middleware(RateLimitMiddleware)
    app.get("/")(lambda: None)
    with TestClient(app) as client:
        assert_limited(client, "GET", "/", 3, clock=fleetlimit_clock)


def test_wait_that_is_too_short_fails(app: FastAPI) -> None:
    """With a clock of another limiter, the request after the wait is rejected."""
    with (
        TestClient(app) as client,
        pytest.raises(AssertionError, match="12 s after the rejection was rejected with 429"),
    ):
        assert_limited(client, "POST", "/exports", 5, clock=ManualClock())


def test_long_answers_are_shortened(app: FastAPI) -> None:
    """A message has the beginning of an answer only."""
    app.get("/long")(lambda: JSONResponse("x" * 1000, 500))
    with (
        TestClient(app) as client,
        pytest.raises(AssertionError, match=r"x\.\.\.; if the app means to, write status=500"),
    ):
        assert_limited(client, "GET", "/long", 1)


async def test_spent_units_of_a_caller(make_fleetlimit: FleetlimitFactory) -> None:
    """The units that a caller has spent, of a policy with one limit or of a named one."""
    policies = PolicySet(
        [
            Policy("exports", "5/minute"),
            Policy("two", (Limit.rate("5/minute"), Limit.rate("9/hour"))),
            Policy("off", "5/minute", mode="off"),
        ]
    )
    async with make_fleetlimit(policies) as fleetlimit:
        assert await spent_units(fleetlimit, "exports", "alice") == 0
        await fleetlimit.limiter.check("exports", "two", principal="alice", cost=3)
        assert await spent_units(fleetlimit, "exports", "alice") == 3
        assert await spent_units(fleetlimit, "exports", "bob") == 0
        assert await spent_units(fleetlimit, "two", "alice", limit="tb3600") == 3
        with pytest.raises(ValueError, match="two has tb60, tb3600: write limit="):
            await spent_units(fleetlimit, "two", "alice")
        with pytest.raises(ValueError, match="off has no limit, because it is off"):
            await spent_units(fleetlimit, "off", "alice")
        with pytest.raises(ConfigError):
            await spent_units(fleetlimit, "missing", "alice")


def test_spent_units_with_a_test_client(make_fleetlimit: FleetlimitFactory) -> None:
    """In a sync test the portal of the client runs it."""
    fleetlimit = make_fleetlimit(PolicySet([Policy("exports", "5/minute")]))
    app = FastAPI(lifespan=fleetlimit)

    @app.get("/", dependencies=[Depends(ConcurrencyLimit(1))])
    async def read(limit: Annotated[Reservation, Depends(RateLimit("3/day"))]) -> None:
        await limit.refund()
        await fleetlimit.limiter.check("exports", principal="alice")

    with TestClient(app) as client:
        client.get("/")
        assert client.portal is not None
        assert client.portal.call(spent_units, fleetlimit, "exports", "alice") == 1

"""Rate limits as dependencies of FastAPI routes."""

import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit.core.quota import concurrency_quota
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import ConcurrencyLimit, PolicyLimit, RateLimit, rate_limit
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.route_policies import RateLimitDependency
from support.exports import count_allowed, limited_app
from support.limiter import rate_policy
from support.web import LimiterBench, caller, parse_limits


def test_rate_limit_admits_five_and_then_sends_429() -> None:
    """The first form of the project works unchanged: 5 pass, then 429 with Retry-After."""
    router = APIRouter()

    @router.post("/exports", dependencies=[Depends(rate_limit(limit=5, window=60))])
    async def create_export() -> dict[str, str]:
        return {"status": "queued"}

    app = LimiterBench().install(FastAPI())
    app.include_router(router)
    client = TestClient(app)

    for _ in range(5):
        assert client.post("/exports").status_code == 200
    blocked = client.post("/exports")
    assert blocked.status_code == 429
    assert "Retry-After" in blocked.headers


def test_burst_is_spent_at_once() -> None:
    """A burst above the rate can be spent at once."""
    client = limited_app(LimiterBench(), RateLimit("5/minute", burst=10))
    assert parse_limits(client.post("/exports")) == {
        "5/60s-burst10": {"q": 10, "w": 120, "r": 9, "t": 12}
    }
    assert count_allowed(client) == 9


def test_prefetch_keeps_the_whole_burst() -> None:
    """With `prefetch` the headers state the whole burst, and it can be spent at once."""
    client = limited_app(LimiterBench(), RateLimit("10/minute", key="global", prefetch=0.2))
    assert parse_limits(client.post("/exports")) == {
        "10/60s-prefetch-0.2-global": {"q": 10, "w": 60, "r": 9, "t": 6}
    }
    assert count_allowed(client) == 9


@pytest.mark.parametrize("window", [0.25, timedelta(milliseconds=250)])
def test_rate_limit_accepts_a_fraction_of_a_second(window: float | timedelta) -> None:
    """A window may be a fraction of a second, or a `timedelta`."""
    client = limited_app(LimiterBench(), rate_limit(limit=1, window=window))
    assert client.post("/exports").headers["RateLimit-Policy"] == '"1/0.25s";q=1;w=1'


def test_policy_limit_spends_its_cost() -> None:
    """A route can use a policy of the file at a cost above 1."""
    client = limited_app(
        LimiterBench(rate_policy("exports", "7/minute")), PolicyLimit("exports", cost=3)
    )
    assert parse_limits(client.post("/exports")) == {"exports": {"q": 7, "w": 60, "r": 4, "t": 9}}
    assert count_allowed(client) == 1


def test_concurrency_limit_holds_a_unit_while_the_request_lasts() -> None:
    """A unit is held in the endpoint and released after it."""
    app = LimiterBench().install(FastAPI())
    remaining: list[int] = []

    @app.get("/items")
    async def items(
        limit: Annotated[Reservation, Depends(ConcurrencyLimit(4, cost=2, key="global"))],
    ) -> None:
        status = limit.decision.results[0].statuses[0]
        assert status is not None
        remaining.append(status.remaining)

    client = TestClient(app)
    found = [parse_limits(client.get("/items")) for _ in range(2)]
    assert [list(each) for each in found] == [["4/30s-concurrency-global"]] * 2
    assert remaining == [2, 2]


async def test_concurrency_limit_states_how_long_units_are_held() -> None:
    """After a request of 2 s, a rejected one is sent 2 s in all fields; the lease is 30 s."""
    rejected: list[httpx.Response] = []
    async with LimiterBench() as bench:
        app = bench.install(FastAPI())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:

            @app.get("/items", dependencies=[Depends(ConcurrencyLimit(1, key="global"))])
            async def items(*, other: bool = False) -> None:
                if other:
                    rejected.append(await client.get("/items"))
                bench.clock.advance(2)

            await client.get("/items")
            await client.get("/items?other=true")
    (response,) = rejected
    assert (response.status_code, response.headers["Retry-After"]) == (429, "2")
    assert response.headers["RateLimit"] == '"1/30s-concurrency-global";r=0;t=2'


def test_concurrency_limit_rejects_a_cost_above_its_units() -> None:
    """A request that needs more units than there are is 413."""
    client = limited_app(LimiterBench(), ConcurrencyLimit(1, cost=lambda _: 2))
    assert client.post("/exports").status_code == 413


@pytest.mark.parametrize("lease", [90, 90.0, timedelta(minutes=1.5)])
def test_concurrency_limit_takes_its_lease_as_seconds_or_timedelta(
    lease: float | timedelta,
) -> None:
    """The lease is seconds or a `timedelta`, in whole milliseconds."""
    limit = ConcurrencyLimit(1, lease=lease)
    (quota,) = limit.resolve_policy(LimiterBench().http_limiter).quotas_for("")
    assert quota == concurrency_quota(1, lease=90)


def test_policy_limit_follows_a_reload() -> None:
    """The active policy of the name applies, not the one at import."""
    bench = LimiterBench(rate_policy("exports", "1/minute"))
    client = limited_app(bench, PolicyLimit("exports"))
    assert count_allowed(client) == 1
    bench.limiter.active_policies.replace(
        LimiterBench(rate_policy("exports", "5/minute")).limiter.active_policies.current
    )
    assert count_allowed(client, caller("ann")) == 5


def test_modes_shadow_and_off_reject_no_request() -> None:
    """A limit in shadow mode, or off, admits every request."""
    for mode in ("shadow", "off"):
        client = limited_app(LimiterBench(), RateLimit("1/minute", mode=mode))
        assert {client.post("/exports").status_code for _ in range(3)} == {200}


def test_policy_limit_without_its_policy_is_an_error() -> None:
    """The error lists the policies that exist; the request is not admitted unlimited."""
    client = limited_app(LimiterBench(rate_policy("default", "5/minute")), PolicyLimit("exprots"))
    with pytest.raises(ConfigError, match="no policy 'exprots' in code: default"):
        client.post("/exports")


@pytest.mark.parametrize("make", [partial(RateLimit, "5/minute"), partial(PolicyLimit, "a")])
def test_cost_is_a_whole_number_or_a_function(make: Callable[..., object]) -> None:
    """Any other cost is an error where the limit is written, not at the first request."""
    with pytest.raises(ConfigError, match=r"a whole number, not 1\.5: write .* a function"):
        make(cost=1.5)
    with pytest.raises(ConfigError, match="a cost cannot be negative: -1: write a number from 0"):
        make(cost=-1)


def test_cost_function_may_be_plain_or_async() -> None:
    """A cost can be a function of the request."""

    def rows(connection: HTTPConnection) -> int:
        return int(connection.query_params["rows"])

    async def rows_later(connection: HTTPConnection) -> int:
        return rows(connection)

    for cost in (rows, rows_later):
        client = limited_app(LimiterBench(), RateLimit("10/minute", cost=cost))
        assert parse_limits(client.post("/exports?rows=7"))["10/60s"]["r"] == 3
        assert client.post("/exports?rows=4").status_code == 429
        assert parse_limits(client.post("/exports?rows=3"))["10/60s"]["r"] == 0
        assert client.post("/exports?rows=0").status_code == 200


def test_cost_function_that_returns_a_fraction_spends_nothing() -> None:
    """Such a request is rejected as too large, and the store receives no fraction."""
    fraction: Any = 1.5
    client = limited_app(
        LimiterBench(),
        RateLimit("10/minute", cost=lambda request: fraction if request.query_params else 1),
    )
    assert client.post("/exports?rows=1").status_code == 413
    assert parse_limits(client.post("/exports"))["10/60s"]["r"] == 9


def test_reservation_commits_and_refunds() -> None:
    """The dependency's value corrects the cost of the request, and its headers."""
    app = LimiterBench().install(FastAPI())

    @app.get("/rows/{count}")
    async def rows(
        count: int, limit: Annotated[Reservation, Depends(RateLimit("100/hour", cost=10))]
    ) -> bool:
        if count:
            await limit.commit(count)
        else:
            await limit.refund()
        return limit.decision.allowed

    client = TestClient(app)
    for count, left in ((3, 97), (0, 97), (25, 72), (1, 71)):
        response = client.get(f"/rows/{count}")
        assert response.json() is True
        assert parse_limits(response)["100/3600s"]["r"] == left


def test_commit_corrects_only_the_policy_of_its_dependency() -> None:
    """Another policy of the same request is left as it is."""
    bench = LimiterBench(rate_policy("calls", "10/hour"), rate_policy("rows", "100/hour"))
    app = bench.install(FastAPI(dependencies=[Depends(PolicyLimit("calls"))]))

    @app.get("/rows")
    async def rows(
        limit: Annotated[Reservation, Depends(PolicyLimit("rows", cost=10))],
    ) -> None:
        await limit.commit(1)

    client = TestClient(app)
    client.get("/rows")
    found = parse_limits(client.get("/rows"))
    assert (found["calls"]["r"], found["rows"]["r"]) == (8, 98)


@pytest.mark.parametrize("middleware", [[Middleware(RateLimitMiddleware)], []])
def test_headers_state_the_units_after_a_commit(middleware: list[Middleware]) -> None:
    """With and without the middleware, and for each of several limits and corrections."""
    bench = LimiterBench(rate_policy("rows", "1000/hour"), rate_policy("calls", "10/hour"))
    app = bench.install(FastAPI(middleware=middleware))

    @app.get("/rows")
    async def rows(
        calls: Annotated[Reservation, Depends(PolicyLimit("calls"))],
        rows: Annotated[Reservation, Depends(PolicyLimit("rows", cost=100))],
    ) -> None:
        await rows.commit(37)
        await calls.commit(3)

    found = parse_limits(TestClient(app).get("/rows"))
    assert (found["rows"]["r"], found["calls"]["r"]) == (963, 7)


def test_headers_state_the_spent_units_if_the_refund_failed() -> None:
    """Without the store nothing is refunded, and the headers stay as they were."""
    bench = LimiterBench()
    app = bench.install(FastAPI())

    @app.get("/rows")
    async def rows(
        limit: Annotated[Reservation, Depends(RateLimit("100/hour", cost=10))],
    ) -> None:
        bench.store.unavailable = True
        await limit.commit(3)

    assert parse_limits(TestClient(app).get("/rows"))["100/3600s"]["r"] == 90


def test_each_route_has_its_own_buckets() -> None:
    """One limit object on two routes is a limit on each of them."""
    client = limited_app(LimiterBench(), RateLimit("2/minute"))
    assert count_allowed(client) == 2
    assert client.get("/imports").status_code == 200


def test_routes_share_the_buckets_of_a_named_limit() -> None:
    """Routes whose limits have one name share its buckets."""
    client = limited_app(LimiterBench(), RateLimit("2/minute", name="io"))
    assert count_allowed(client) == 2
    assert client.get("/imports").status_code == 429


def test_each_caller_has_its_own_bucket() -> None:
    """Each caller has its own bucket, and so has the address (fastapi-limiter #80)."""
    client = limited_app(LimiterBench(), RateLimit("2/minute"))
    assert count_allowed(client, caller("ann")) == 2
    assert count_allowed(client, caller("bob")) == 2
    assert count_allowed(client) == 2
    assert count_allowed(client, caller("ann")) == 0


def test_unverified_credential_counts_by_address() -> None:
    """A credential that does not verify gives no fresh bucket."""
    client = limited_app(LimiterBench(), RateLimit("2/minute"))
    assert count_allowed(client) == 2
    assert count_allowed(client, caller("invalid")) == 0


def test_key_may_have_other_parts_than_the_caller() -> None:
    """A key can be a header, several parts, or global."""
    tenants = limited_app(LimiterBench(), RateLimit("2/minute", key="header:X-Tenant"))
    assert count_allowed(tenants, {"x-tenant": "a"} | caller("ann")) == 2
    assert count_allowed(tenants, {"x-tenant": "a"} | caller("bob")) == 0
    assert count_allowed(tenants, {"x-tenant": "b"} | caller("bob")) == 2

    both = limited_app(LimiterBench(), RateLimit("2/minute", key=["principal", "header:x-tenant"]))
    assert count_allowed(both, {"x-tenant": "a"} | caller("ann")) == 2
    assert count_allowed(both, {"x-tenant": "a"} | caller("bob")) == 2
    assert count_allowed(both, {"x-tenant": "a"} | caller("ann")) == 0

    everybody = limited_app(LimiterBench(), RateLimit("2/minute", key="global"))
    assert count_allowed(everybody, caller("ann")) == 2
    assert count_allowed(everybody, caller("bob")) == 0


def rows(_connection: HTTPConnection) -> int:
    return 1


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        (RateLimit("5/minute"), "RateLimit('5/minute')"),
        (
            RateLimit("50/minute", burst=90, key=["global"], mode="shadow", prefetch=0.1),
            "RateLimit('50/minute', burst=90, key=['global'], mode='shadow', prefetch=0.1)",
        ),
        (
            RateLimit("5/month", timezone="Europe/Berlin", anchor=15),
            "RateLimit('5/month', timezone='Europe/Berlin', anchor=15)",
        ),
        (rate_limit(limit=5, window=60), "rate_limit(limit=5, window=60)"),
        (ConcurrencyLimit(4), "ConcurrencyLimit(4)"),
        (
            ConcurrencyLimit(4, lease=timedelta(minutes=1), name="uploads"),
            "ConcurrencyLimit(4, lease=datetime.timedelta(seconds=60), name='uploads')",
        ),
        (PolicyLimit("exports"), "PolicyLimit('exports')"),
        (PolicyLimit("exports", cost=3), "PolicyLimit('exports', cost=3)"),
        pytest.param(
            *(RateLimit("5/minute", cost=rows), f"RateLimit('5/minute', cost={rows!r})"),
            # The address of the function differs between processes.
            id="cost-function",
        ),
    ],
)
def test_repr_is_the_call_that_makes_a_limit(limit: RateLimitDependency, text: str) -> None:
    """A limit is shown as it was written, without the defaults."""
    assert repr(limit) == text


@pytest.mark.parametrize(
    ("rate", "options", "fix"),
    [
        ("5 a minute", {}, "write 100/second, 100/minute"),
        ("0/minute", {}, "write numbers from 1"),
        ("5/minute", {"algorithm": "gcra"}, "write one of token_bucket, fixed_w"),
        ("5/minute", {"algorithm": "concurrency"}, r"write ConcurrencyLimit\(10\)"),
        ("5/minute", {"burst": 0}, "a burst must be from 1"),
        ("5/minute", {"timezone": "Europe/Berlin"}, "write 5/day, 5/week, 5/month or 5/year"),
        ("5/month", {"timezone": "Berlin"}, "is not a time zone: write an IANA name"),
        ("5/month", {"anchor": "15"}, "write an anchor from 1 to 31"),
        ("5/minute", {"burst": 9, "algorithm": "fixed_window"}, "leave it out"),
        ("5/minute", {"cost": 6}, "write a cost from 0 to 5"),
        ("5/minute", {"cost": -1}, "cannot be negative: -1: write a number from 0"),
        ("10/minute", {"cost": 11, "prefetch": 0.2}, "write a cost from 0 to 10"),
        ("10/minute", {"prefetch": 0.6}, r"at most 0\.5"),
        ("5/minute", {"key": "header"}, "write principal, client_address"),
        ("5/minute", {"key": []}, "empty key: write principal"),
        ("5/minute", {"name": "a b"}, "not a policy name: write"),
        ("5/minute", {"mode": "enforced"}, "write one of enforce, shadow, off"),
        ("5/minute", {"on_store_error": "raise"}, "write one of allow, deny, local"),
    ],
)
def test_rate_limit_rejects_wrong_arguments(rate: str, options: Any, fix: str) -> None:
    """Arguments that cannot work are an error at import, with what to write instead."""
    with pytest.raises(ConfigError, match=fix):
        RateLimit(rate, **options)


@pytest.mark.parametrize(
    ("limit", "window", "fix"),
    [
        (0, 60, "a limit must be from 1"),
        (5, 0, "a period or lease must be whole milliseconds"),
        (5, timedelta(0), "a period or lease must be whole milliseconds"),
        (5, "60", "'60' is not a duration: write a number of seconds, or a timedelta"),
        (5, math.nan, "nan is not a duration: write a number of seconds"),
        (5, math.inf, "inf is not a duration: write a number of seconds"),
    ],
)
def test_rate_limit_function_rejects_wrong_arguments(limit: int, window: Any, fix: str) -> None:
    """So are numbers that allow no request."""
    with pytest.raises(ConfigError, match=fix):
        rate_limit(limit=limit, window=window)


@pytest.mark.parametrize(
    ("limit", "options", "fix"),
    [
        (0, {}, "a limit must be from 1"),
        (2, {"cost": 3}, "write a cost from 0 to 2"),
        (2, {"lease": 0}, "a period or lease must be whole milliseconds"),
        (2, {"lease": "30"}, "'30' is not a duration: write a number of seconds, or a timedelta"),
        (2, {"key": []}, "empty key: write principal"),
        (2, {"mode": "enforced"}, "write one of enforce, shadow, off"),
    ],
)
def test_concurrency_limit_rejects_wrong_arguments(limit: int, options: Any, fix: str) -> None:
    """So are arguments of `ConcurrencyLimit`."""
    with pytest.raises(ConfigError, match=fix):
        ConcurrencyLimit(limit, **options)


@pytest.mark.parametrize("kind", [RateLimit, ConcurrencyLimit, PolicyLimit])
def test_constructors_show_their_arguments(kind: type[RateLimitDependency]) -> None:
    """An editor shows each argument: no constructor takes whatever it is given."""
    parameters = inspect.signature(kind).parameters.values()
    assert {each.kind for each in parameters} <= {
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.KEYWORD_ONLY,
    }


def test_limit_of_a_month_ends_at_its_instant() -> None:
    """A client that waits as long as `Retry-After` says is admitted in the new month."""
    bench = LimiterBench()
    limit = RateLimit("2/month", timezone="Europe/Berlin", anchor=15, name="exports")
    client = limited_app(bench, limit)
    assert count_allowed(client) == 2
    response = client.post("/exports")
    calendar = limit.resolve_policy(bench.http_limiter).limits[0].calendar
    assert calendar is not None
    now_us = bench.clock.monotonic_us()
    left = -(-(calendar.window_at(now_us)[1] - now_us) // 1_000_000)
    assert response.headers["Retry-After"] == str(left)
    assert parse_limits(response) == {
        "exports": {"q": 2, "w": 31 * 86_400, "r": 0, "t": left},
    }
    bench.clock.advance(left - 1)
    assert count_allowed(client) == 0
    bench.clock.advance(1)
    assert count_allowed(client) == 2

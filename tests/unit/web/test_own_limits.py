"""Limits of single callers: from a function of the connection, and from a provider."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit import (
    ConfigError,
    Exemption,
    Fleetlimit,
    Limit,
    Match,
    Policy,
    PolicySet,
    Principal,
)
from fleetlimit.limiter.audit.sample import MAX_OWN_LIMITS
from fleetlimit.testing import ManualClock
from fleetlimit.web.dependency import RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench, caller, parse_limits

both_doors = pytest.mark.parametrize("middleware", [True, False])
PLANS = {"ann": "2/minute", "bob": ["9/minute", "3/hour"], "cid": Limit.rate("1/minute", burst=4)}


def plan_of(connection: HTTPConnection) -> Any:
    """Return the limits of a caller's plan."""
    return PLANS.get(connection.headers.get("x-caller", ""))


async def async_plan_of(connection: HTTPConnection) -> Any:
    """Return the same from an async function."""
    await asyncio.sleep(0)
    return plan_of(connection)


def client_of(limit: Any, *, middleware: bool, bench: LimiterBench | None = None) -> TestClient:
    """Return a client of an app with one limited route."""
    app = FastAPI()
    app.get("/a", dependencies=[Depends(limit)])(lambda: None)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    bench = bench or LimiterBench()
    return TestClient(bench.install(app), raise_server_exceptions=False)


def admitted(client: TestClient, name: str) -> int:
    """Return how many of six requests of a caller are admitted."""
    found = [client.get("/a", headers=caller(name)).status_code for _ in range(6)]
    assert set(found) <= {200, 429}
    return found.count(200)


@both_doors
@pytest.mark.parametrize("function", [plan_of, async_plan_of])
def test_function_returns_the_limits_of_the_caller(*, function: Any, middleware: bool) -> None:
    """Each caller has its own limits, a caller without any has the default."""
    client = client_of(RateLimit(function, default="1/minute"), middleware=middleware)
    assert [admitted(client, name) for name in ("ann", "bob", "cid", "dan")] == [2, 3, 4, 1]


@both_doors
def test_headers_state_the_own_limits(*, middleware: bool) -> None:
    """The fields have the numbers of the caller."""
    limit = RateLimit(plan_of, default="5/minute", name="plan")
    client = client_of(limit, middleware=middleware)
    found = parse_limits(client.get("/a", headers=caller("ann")))
    assert found["plan"]["q"] == 2
    assert {
        each["q"] for each in parse_limits(client.get("/a", headers=caller("bob"))).values()
    } == {
        9,
        3,
    }
    assert parse_limits(client.get("/a", headers=caller("dan")))["plan"]["q"] == 5


def _raising(_connection: HTTPConnection) -> str:
    raise RuntimeError("no database")


async def _never(_connection: HTTPConnection) -> str:
    await asyncio.Event().wait()
    raise AssertionError


@both_doors
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_raising, "no database"),
        (_never, "did not return within 0 s"),
        (lambda _connection: "many", "'many' is not a rate"),
        (lambda _connection: 5, "returned 5: return a rate"),
        (lambda _connection: [], "returned 0 limits"),
        (lambda _connection: ["1/minute"] * 9, "returned 9 limits"),
        (lambda _connection: ["1/minute", "2/minute"], "two limits of one period"),
        (lambda _connection: Limit.concurrent(5), "returned a concurrency limit"),
        (lambda _connection: b"9/minute", "return a rate"),
    ],
)
def test_function_that_fails_leaves_the_default(
    *, function: Any, message: str, middleware: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is limited by the default, and the log has the reason."""
    bench = LimiterBench()
    bench.http_limiter.function_timeout_s = 0
    limit = RateLimit(function, default="2/minute")
    assert admitted(client_of(limit, middleware=middleware, bench=bench), "ann") == 2
    assert "limits.failed" in caplog.text
    assert message in caplog.text


def test_own_limit_with_an_exemption_and_a_key() -> None:
    """The function is not called for an exempt caller, and its buckets have the limit's key."""
    calls: list[str] = []

    def limits(connection: HTTPConnection) -> str:
        calls.append(connection.headers["x-caller"])
        return "1/minute"

    limit = RateLimit(
        limits, default="9/minute", key="global", exempt=Exemption(principals=["ann"])
    )
    client = client_of(limit, middleware=True)
    assert (admitted(client, "ann"), admitted(client, "bob"), admitted(client, "cid")) == (6, 1, 0)
    assert "ann" not in calls


def test_wrong_arguments_say_what_to_write() -> None:
    """The error is raised where the limit is written."""
    wrong: Any = RateLimit
    for arguments, options, message in (
        ((plan_of,), {}, r'write RateLimit\(plan_of, default="10/minute"\)'),
        (("5/minute",), {"default": "1/minute"}, "two limits"),
        ((plan_of,), {"default": "1/minute", "burst": 3}, "burst=3 belongs to a rate in text"),
        ((plan_of,), {"default": Limit.concurrent(3)}, "ConcurrencyLimit"),
        ((lambda: "1/minute",), {"default": "1/minute"}, "called with one argument"),
    ):
        with pytest.raises(ConfigError, match=message):
            wrong(*arguments, **options)
    number: Any = 5
    with pytest.raises(ConfigError, match="is not a function: write `async def limits"):
        Fleetlimit(limits=number)
    one: Any = lambda principal: None  # noqa: ARG005, E731 - the mistake
    with pytest.raises(ConfigError, match="cannot be called with two arguments"):
        Fleetlimit(limits=one)
    with pytest.raises(ConfigError, match=r"limits_ttl=0.0 is no time"):
        Fleetlimit(limits=lambda _principal, _policy: None, limits_ttl=0)


class Table:
    """Provider whose answers and failures a test sets."""

    def __init__(self) -> None:
        self.limits: dict[str, Any] = {}
        self.calls: list[tuple[str, str]] = []
        self.error: BaseException | None = None
        self.gate: asyncio.Event | None = None

    async def __call__(self, principal: Principal, policy: str) -> Any:
        """Return the limits of a caller."""
        self.calls.append((principal.name, policy))
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return self.limits.get(principal.name)


@asynccontextmanager
async def running(
    *policies: Policy, table: Any, **options: Any
) -> AsyncIterator[tuple[Fleetlimit, ManualClock]]:
    """Run a limiter with the table's limits, on a clock that the test moves."""
    clock = ManualClock()
    fleetlimit = Fleetlimit(policies=PolicySet(policies), limits=table, clock=clock, **options)
    async with fleetlimit:
        yield fleetlimit, clock


async def count(fleetlimit: Fleetlimit, policy: str, name: str, times: int = 6) -> int:
    """Return how many checks of a caller are admitted."""
    checks = [await fleetlimit.limiter.check(policy, principal=name) for _ in range(times)]
    return sum(each.allowed for each in checks)


def hourly(units: int) -> Limit:
    """Return a limit whose bucket keeps the units that were spent, whatever the limit is."""
    return Limit.rate(f"{units}/hour", algorithm="fixed_window")


POLICY = Policy("api", hourly(3), match=Match())


async def test_provider_is_asked_once_for_each_caller_until_its_time_is_over() -> None:
    """The answer None is cached as well; an anonymous caller is not asked for."""
    table = Table()
    table.limits["ann"] = hourly(1)
    async with running(POLICY, table=table) as (fleetlimit, clock):
        assert await count(fleetlimit, "api", "ann") == 1
        assert await count(fleetlimit, "api", "bob") == 3
        assert table.calls == [("ann", "api"), ("bob", "api")]
        await fleetlimit.limiter.check("api")
        table.limits["ann"] = hourly(5)
        assert await count(fleetlimit, "api", "ann") == 0
        clock.advance(seconds=61)
        assert await count(fleetlimit, "api", "ann") == 4
        assert table.calls[2:] == [("ann", "api")]


async def test_invalidated_limits_are_asked_for_again() -> None:
    """One caller or all; a call that was in flight is not cached."""
    table = Table()
    async with running(POLICY, table=table, limits_ttl=timedelta(days=1)) as (fleetlimit, _):
        await count(fleetlimit, "api", "ann", 1)
        await count(fleetlimit, "api", "bob", 1)
        table.limits.update(ann=hourly(9), bob=hourly(9))
        fleetlimit.invalidate_limits("ann")
        assert (await count(fleetlimit, "api", "ann"), await count(fleetlimit, "api", "bob")) == (
            6,
            2,
        )
        fleetlimit.invalidate_limits()
        assert await count(fleetlimit, "api", "bob", 2) == 2
        fleetlimit.invalidate_limits()
        table.gate = asyncio.Event()
        first = asyncio.ensure_future(fleetlimit.limiter.check("api", principal="ann"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        fleetlimit.invalidate_limits("ann")
        table.gate.set()
        await first
        calls = len(table.calls)
        await fleetlimit.limiter.check("api", principal="ann")
        assert len(table.calls) == calls + 1


async def test_concurrent_misses_are_one_call_that_no_request_cancels() -> None:
    """A cancelled request leaves the call to the others."""
    table = Table()
    table.limits["ann"] = hourly(2)
    table.gate = asyncio.Event()
    async with running(POLICY, table=table) as (fleetlimit, _):
        checks = [
            asyncio.ensure_future(fleetlimit.limiter.check("api", principal="ann"))
            for _ in range(4)
        ]
        for _ in range(3):
            await asyncio.sleep(0)
        checks[0].cancel()
        await asyncio.sleep(0)
        table.gate.set()
        found = await asyncio.gather(*checks[1:])
        assert [each.allowed for each in found] == [True, True, False]
        assert len(table.calls) == 1


@pytest.mark.parametrize("error", [RuntimeError("down"), asyncio.CancelledError()])
async def test_failing_provider_leaves_the_last_known_limits(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an earlier answer the policy's limits apply; each is logged and counted."""
    table = Table()
    table.limits["ann"] = hourly(1)
    async with running(POLICY, table=table) as (fleetlimit, clock):
        await count(fleetlimit, "api", "ann", 1)
        table.error = error
        clock.advance(seconds=61)
        assert await count(fleetlimit, "api", "ann") == 0
        assert await count(fleetlimit, "api", "bob") == 3
        assert len(table.calls) == 3
        clock.advance(seconds=1)
        table.error = None
        table.limits["bob"] = hourly(6)
        assert await count(fleetlimit, "api", "bob") == 3
        fleetlimit.metrics.flush()
        text = fleetlimit.metrics.render()[0].decode()
    assert "fleetlimit_caller_limits_failures_total 2.0" in text
    assert "limits.failed" in caplog.text


async def test_timeout_of_a_provider_is_a_failure() -> None:
    """A provider that does not answer delays a check by the timeout only."""
    table = Table()
    table.gate = asyncio.Event()
    async with running(POLICY, table=table) as (fleetlimit, _):
        assert fleetlimit.limiter.provided_limits is not None
        fleetlimit.limiter.provided_limits._timeout_s = 0
        assert await count(fleetlimit, "api", "ann") == 3


async def test_plain_provider_and_wrong_answers() -> None:
    """A plain function is a provider, and an answer without a limit changes nothing."""
    answers: dict[str, Any] = {"ann": Limit.rate("1/hour"), "bob": [], "cid": "lots", "dan": 0}
    async with running(POLICY, table=lambda principal, _policy: answers[principal.name]) as (
        fleetlimit,
        _,
    ):
        found = [await count(fleetlimit, "api", name) for name in answers]
    assert found == [1, 3, 3, 3]


async def test_own_limits_replace_rates_and_keep_concurrency() -> None:
    """A policy of concurrency alone is not asked for."""
    table = Table()
    table.limits["ann"] = "5/hour"
    both = Policy("both", ["1/hour", Limit.concurrent(2)], match=Match())
    alone = Policy("alone", [Limit.concurrent(1)], match=Match())
    async with running(both, alone, table=table) as (fleetlimit, _):
        held = [await fleetlimit.limiter.reserve("both", principal="ann") for _ in range(3)]
        assert [each.decision.allowed for each in held] == [True, True, False]
        async with await fleetlimit.limiter.reserve("alone", principal="ann") as reservation:
            assert reservation.decision.allowed
        assert {policy for _, policy in table.calls} == {"both"}
        for each in held:
            await each.release()


async def test_peek_and_reset_know_the_own_limits() -> None:
    """A bucket of an own period is found by a reset."""
    table = Table()
    table.limits["ann"] = "1/day"
    async with running(POLICY, table=table) as (fleetlimit, _):
        limiter = fleetlimit.limiter
        assert await count(fleetlimit, "api", "ann") == 1
        assert not (await limiter.peek("api", principal="ann")).allowed
        assert await limiter.reset("api", principal="ann") == 1
        decision = await limiter.peek("api", principal="ann")
        assert decision.allowed
        assert decision.results[0].is_own
        assert decision.results[0].quotas[0].period_seconds == 86_400


async def test_lowered_limit_denies_at_once_and_a_raised_one_keeps_what_was_spent() -> None:
    """The bucket of one period keeps its state, as after a reload of the policy file."""
    table = Table()
    table.limits["ann"] = hourly(10)
    async with running(POLICY, table=table) as (fleetlimit, _):
        assert await count(fleetlimit, "api", "ann") == 6
        table.limits["ann"] = hourly(5)
        fleetlimit.invalidate_limits("ann")
        assert await count(fleetlimit, "api", "ann", 1) == 0
        table.limits["ann"] = hourly(8)
        fleetlimit.invalidate_limits("ann")
        assert await count(fleetlimit, "api", "ann") == 2


async def test_own_limits_are_one_tier_of_the_metrics_and_bounded_in_the_audit() -> None:
    """Thousands of different limits make neither labels nor reports grow."""
    async with running(POLICY, table=lambda principal, _policy: f"{len(principal.name)}/hour") as (
        fleetlimit,
        _,
    ):
        for length in range(1, 3 * MAX_OWN_LIMITS):
            await fleetlimit.limiter.check("api", principal="x" * length)
        await fleetlimit.limiter.check("api")
        fleetlimit.metrics.flush()
        text = fleetlimit.metrics.render()[0].decode()
        report = fleetlimit.limiter.audit.sample.snapshot()
    total = 3 * MAX_OWN_LIMITS - 1
    assert f'fleetlimit_admissions_total{{policy="api",tier="custom"}} {total}.0' in text
    assert 'fleetlimit_admissions_total{policy="api",tier="none"} 1.0' in text
    assert report.count("api token_bucket") == MAX_OWN_LIMITS
    assert report.count("api fixed_window") == 1


async def test_provider_of_a_served_app_is_adopted_once() -> None:
    """`serve` has one limiter, and so one provider."""
    table = Table()
    fleetlimit = Fleetlimit()
    for _ in range(2):
        fleetlimit.adopt(Fleetlimit(limits=table)._code_arguments)
    with pytest.raises(ConfigError, match="use one function and one limits_ttl"):
        fleetlimit.adopt(Fleetlimit(limits=table, limits_ttl=5)._code_arguments)
    await fleetlimit.aclose()

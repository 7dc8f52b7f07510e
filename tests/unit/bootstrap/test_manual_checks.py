"""Checks by hand with `Fleetlimit`, as in a job or a script."""

import asyncio
import gc
import pickle
import secrets
import warnings
from typing import Any

import pytest

from fleetlimit import (
    ConfigError,
    CostError,
    Fleetlimit,
    Policy,
    PolicySet,
    Principal,
    RateLimit,
    RateLimitExceeded,
    Settings,
    Subject,
    Usage,
)
from fleetlimit.core.quota import concurrency_quota
from fleetlimit.core.subject import KeyValues
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.testing import ManualClock
from support.eventually import eventually_async

POLICIES = PolicySet(
    [
        Policy("emails", "2/minute", {"pro": "3/minute"}),
        Policy("total", "3/minute", key="global"),
        Policy("slots", concurrency_quota(1, lease=30), key="global"),
        Policy("tenants", "1/minute", key="header:X-Tenant"),
        Policy("addresses", "1/minute", key="client_address"),
        Policy("routes", "1/minute", key=("principal", "route")),
        Policy("watched", "1/minute", mode="shadow"),
        Policy("logins", "1/minute", count="failure"),
        Policy("tokens", "500/minute", cost=Usage("openai")),
    ]
)


@pytest.fixture(params=["memory", "valkey"])
def limits(request: pytest.FixtureRequest) -> Fleetlimit:
    """Return a limiter that was not started, over memory and over a server."""
    url = "memory://"
    if request.param == "valkey":
        server: EmbeddedValkey = request.getfixturevalue("valkey")
        url = server.url
    prefix = f"test-{secrets.token_hex(4)}"
    settings = Settings(store=url, key_prefix=prefix, store_timeout=5, breaker_failures=1_000)
    return Fleetlimit(policies=POLICIES, settings=settings, clock=ManualClock())


async def test_check_raises_above_the_limit(limits: Fleetlimit) -> None:
    """The third check of two raises, with the decision and the time to wait."""
    async with limits:
        first = await limits.check("emails", principal="ann")
        await limits.check("emails", principal="ann")
        with pytest.raises(RateLimitExceeded) as caught:
            await limits.check("emails", principal="ann")
        await limits.check("emails", principal="bob")
    assert first.allowed
    assert caught.value.retry_after == 30
    assert caught.value.decision is not None
    assert caught.value.decision.denied_by == ("emails",)


async def test_check_names_the_tier_of_its_caller(limits: Fleetlimit) -> None:
    """A tier is given beside the name, or in a `Principal`."""
    async with limits:
        await limits.check("emails", principal="ann", tier="pro", cost=2)
        await limits.check("emails", principal=Principal("ann", "pro"))
        with pytest.raises(RateLimitExceeded):
            await limits.check("emails", principal="ann", tier="pro")


async def test_check_of_several_policies_is_all_or_nothing(limits: Fleetlimit) -> None:
    """A denied check spends from no policy."""
    async with limits:
        await limits.check("emails", "total", principal="ann", cost=2)
        with pytest.raises(RateLimitExceeded):
            await limits.check("emails", "total", principal="ann")
        await limits.check("total")


async def test_costs_by_policy_are_spent_and_corrected_together(limits: Fleetlimit) -> None:
    """A mapping has the cost under each policy, and `commit` the actual ones."""
    async with limits:
        reservation = await limits.reserve(cost={"emails": 1, "tokens": 500}, principal="ann")
        with pytest.raises(RateLimitExceeded):
            await limits.check("emails", "tokens", cost={"tokens": 1, "emails": 1}, principal="ann")
        await reservation.commit({"emails": 1, "tokens": 200})
        waited = await limits.acquire(cost={"tokens": 300}, principal="ann", timeout=0)
        assert waited.decision.allowed
        await limits.check("emails", principal="ann")


async def test_peek_neither_spends_nor_raises(limits: Fleetlimit) -> None:
    """`peek` returns the decision that `check` would raise."""
    async with limits:
        assert (await limits.peek("emails", principal="ann", cost=2)).allowed
        await limits.check("emails", principal="ann", cost=2)
        denied = await limits.peek("emails", principal="ann")
        assert not denied.allowed


async def test_reset_admits_again(limits: Fleetlimit) -> None:
    """`reset` deletes the caller's buckets."""
    async with limits:
        await limits.check("emails", principal="ann", cost=2)
        assert await limits.reset("emails", principal="ann") == 1
        await limits.check("emails", principal="ann", cost=2)


async def test_reserve_corrects_the_cost(limits: Fleetlimit) -> None:
    """The difference between the reserved and the actual cost is refunded."""
    async with limits:
        reservation = await limits.reserve("emails", principal="ann", cost=2)
        await reservation.commit(1)
        await limits.check("emails", principal="ann")
        with pytest.raises(RateLimitExceeded):
            await limits.reserve("emails", principal="ann")


async def test_reserve_of_a_concurrency_limit_releases_at_the_end(limits: Fleetlimit) -> None:
    """`async with` holds a unit until its end, whatever happens in the block."""
    async with limits:
        with pytest.raises(RateLimitExceeded):
            await _reserve_twice(limits)
        async with limits.acquire("slots", timeout=0) as reservation:
            assert reservation.decision.allowed


async def _reserve_twice(limits: Fleetlimit) -> None:
    async with limits.reserve("slots"), limits.reserve("slots"):
        pass


async def test_dropped_concurrency_units_are_warned_about(
    limits: Fleetlimit, caplog: pytest.LogCaptureFixture
) -> None:
    """A reservation that no variable holds releases its units, which the log reports."""
    async with limits:
        kept = await limits.acquire("slots")
        await kept.release()
        del kept
        assert "leases.dropped" not in caplog.text
        await limits.acquire("slots")
        await asyncio.sleep(0)
        gc.collect()
        assert "leases.dropped policies=slots" in caplog.text


async def test_forgotten_await_is_warned_about(limits: Fleetlimit) -> None:
    """Python warns of a check that is never awaited."""
    async with limits:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            limits.acquire("total")
            limits.reserve("total")
            gc.collect()
    assert len([each for each in caught if "was never awaited" in str(each.message)]) == 2


async def test_acquire_waits_for_units(limits: Fleetlimit) -> None:
    """`acquire` waits until the clock has reached the retry time."""
    clock: Any = limits._clock
    async with limits:
        await limits.check("emails", principal="ann", cost=2)
        with pytest.raises(RateLimitExceeded) as caught:
            await limits.acquire("emails", principal="ann", timeout=29)
        assert caught.value.retry_after == 30
        waiting = asyncio.ensure_future(_acquire(limits))
        await eventually_async(lambda: clock.sleepers)
        assert limits.limiter.waiting == 1
        clock.advance(30)
        assert (await waiting).decision.allowed


async def _acquire(limits: Fleetlimit) -> Any:
    return await limits.acquire("emails", principal="ann", timeout=None)


@pytest.mark.parametrize("seconds", [-1, float("nan"), True, "30", 1e12])
async def test_acquire_rejects_a_timeout_that_is_no_time(seconds: Any) -> None:
    """A time to wait is a number of seconds from 0 to a year."""
    with pytest.raises(ConfigError, match="is not a time to wait: write seconds"):
        Fleetlimit(policies=POLICIES).acquire("total", timeout=seconds)


async def test_limit_from_code_is_checked_by_hand(limits: Fleetlimit) -> None:
    """A `Policy` or a limit with a name needs no policy file; a limit states its own cost."""
    async with limits:
        await limits.check(Policy("own", "1/minute"), principal="ann")
        limit = RateLimit("4/minute", name="code", cost=2)
        await limits.check(limit, principal="ann")
        await limits.check(limit, principal="ann", cost=1)
        with pytest.raises(RateLimitExceeded):
            await limits.check(limit, principal="ann")


@pytest.mark.parametrize(
    ("policies", "arguments", "message"),
    [
        ((), {"principal": "ann"}, r'limits nothing: write check\("name"\)'),
        (("none",), {"principal": "ann"}, "there is no policy 'none'"),
        ((5,), {"principal": "ann"}, r"5 is not a policy: write the name of one"),
        (("emails",), {}, r'emails is keyed on principal, .* write principal="..."'),
        (("emails",), {"subject": Subject()}, r'write principal="..."'),
        (("emails",), {"principal": ""}, "write the caller's name"),
        (("emails",), {"principal": 42}, r"principal=42 is not a name: write principal=str"),
        (("emails",), {"tier": "pro"}, "without a caller"),
        (
            ("emails",),
            {"principal": Principal("ann"), "tier": "pro"},
            r"write Principal\('ann', tier='pro'\)",
        ),
        (
            ("emails",),
            {"principal": "ann", "subject": Subject("192.0.2.1")},
            r"write subject=Subject\(principal=",
        ),
        (("tenants",), {"principal": "ann"}, "keyed on header:x-tenant, .* write key="),
        (("addresses",), {"principal": "ann"}, r'subject=Subject\("192.0.2.1"\)'),
        (("routes",), {"principal": "ann"}, r"subject=Subject\(route="),
        (("logins",), {"principal": "ann"}, r"`reservation = await limits.reserve\('logins'\)`"),
        (("tokens",), {"principal": "ann"}, "reserve an estimate with cost="),
        (("emails",), {"principal": "ann", "cost": {"total": 1}}, "cost is given for total"),
        ((), {"principal": "ann", "cost": {}}, "limits nothing"),
        (("slots",), {}, r"write `async with limits.reserve\('slots'\)`"),
        (
            (RateLimit("5/minute", name="x", cost=lambda _: 2),),
            {"principal": "ann"},
            "computes its cost from a request: write cost=",
        ),
    ],
)
async def test_check_that_cannot_limit_is_an_error(
    policies: Any, arguments: Any, message: str
) -> None:
    """A check that states too little raises, and says what to write."""
    async with Fleetlimit(policies=POLICIES) as limits:
        with pytest.raises(ConfigError, match=message):
            await limits.check(*policies, **arguments)


async def test_subject_has_the_other_parts_of_a_key(limits: Fleetlimit) -> None:
    """Each part of a key can be given in a `Subject`."""
    subject = Subject("192.0.2.1", Principal("ann"), "nightly", {"x-tenant": "acme"})
    async with limits:
        await limits.check("emails", "tenants", "addresses", "routes", subject=subject)
        await limits.check("emails", subject=Subject("192.0.2.9"))


async def test_key_is_the_value_that_a_request_would_have(limits: Fleetlimit) -> None:
    """`key=` replaces a header, a path parameter or a function, or the whole key."""
    function = Policy("function", "1/minute", key=str)
    path = Policy("path", "1/minute", key=("path:item", "principal"))
    async with limits:
        for policy in ("tenants", "emails", function):
            await limits.check(policy, key="a")
            await limits.check(policy, key="b")
        with pytest.raises(RateLimitExceeded):
            await limits.check("tenants", key="a")
        with pytest.raises(ConfigError, match=r'path is keyed on principal, .* principal="..."'):
            await limits.check(path, key="a")
        await limits.check(path, key="a", principal="ann")
        with pytest.raises(ConfigError, match=r'path is keyed on path:item, .* key="..."'):
            await limits.check(path, principal="ann")
        values = KeyValues({"item": "a"})
        subject = Subject(principal=Principal("bob"), key_values=values)
        await limits.check(path, subject=subject)


@pytest.mark.parametrize("key", ["", 7, b"a"])
async def test_key_is_text(key: Any) -> None:
    """Another value, such as an empty one by mistake, is an error."""
    async with Fleetlimit(policies=POLICIES) as limits:
        with pytest.raises(ConfigError, match=r"write key=str\(...\)"):
            await limits.check("tenants", key=key)


async def test_cost_above_the_limit_is_an_error(limits: Fleetlimit) -> None:
    """No wait helps a cost that no bucket can hold."""
    async with limits:
        for call in (limits.check, limits.acquire):
            with pytest.raises(CostError):
                await call("emails", principal="ann", cost=9)


async def test_shadow_policy_admits(limits: Fleetlimit) -> None:
    """A policy that only counts raises nothing."""
    async with limits:
        for _ in range(3):
            decision = await limits.check("watched", principal="ann")
        assert decision.outcome == "shadow_denied"


async def test_check_needs_a_limiter_that_runs() -> None:
    """Before the start and after the end a check says how to start."""
    limits = Fleetlimit(policies=POLICIES)
    with pytest.raises(ConfigError, match=r"was not started: write `async with Fleetlimit"):
        await limits.check("total")
    async with limits:
        await limits.check("total")
    with pytest.raises(ConfigError, match="was closed"):
        await limits.check("total")
    async with limits:
        await limits.check("total")


async def test_denial_survives_pickle() -> None:
    """A worker that sends its errors to another process can send a denial."""
    async with Fleetlimit(policies=POLICIES) as limits:
        await limits.check("total", cost=3)
        with pytest.raises(RateLimitExceeded) as caught:
            await limits.check("total")
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - of this process
    assert copy.retry_after == caught.value.retry_after
    assert copy.decision == caught.value.decision

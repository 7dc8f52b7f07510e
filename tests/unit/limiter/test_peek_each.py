"""`Limiter.peek_each`: many limits of a caller in one call of the store."""

import pytest

from fleetlimit import Exemption, Fleetlimit, Limit, Policy, PolicySet, Principal, Subject
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.limiter.plan import PolicyCost
from fleetlimit.stores.embedded import EmbeddedValkey

POLICIES = [
    Policy("rate", "5/minute"),
    Policy("two", (Limit.rate("60/minute"), Limit.rate("9/day", algorithm="fixed_window"))),
    Policy("slots", Limit.concurrent(4)),
    Policy("shadow", "5/minute", mode="shadow"),
    Policy("off", "5/minute", mode="off"),
    Policy("exempt", "5/minute", exempt=Exemption(principals=["alice"])),
    Policy("route", "5/minute", key=("principal", "route")),
]


@pytest.mark.parametrize("kind", ["memory", "valkey"])
async def test_peek_each_looks_at_each_bucket_once(kind: str, valkey: EmbeddedValkey) -> None:
    """Each policy has its result, none is spent, and a shared bucket has one status."""
    store = "memory://" if kind == "memory" else valkey.url
    settings = Settings(store=store, key_prefix=f"peek-{kind}", store_timeout=5)
    async with Fleetlimit(policies=PolicySet(POLICIES), settings=settings) as fleetlimit:
        limiter = fleetlimit.limiter
        alice = Subject(principal=Principal("alice"), route="GET /a")
        await limiter.check("rate", "two", "shadow", "route", subject=alice, cost=2)
        async with await limiter.reserve("slots", subject=alice):
            other = Subject(principal=Principal("alice"), route="GET /b")
            checks = [(PolicyCost(each, 1), alice) for each in POLICIES]
            checks += [(PolicyCost(POLICIES[0], 1), other), (PolicyCost(POLICIES[-1], 1), other)]
            for _ in range(2):
                found = await limiter.peek_each(checks)
        remaining = [each and [status.remaining for status in each[1]] for each in found]
        assert remaining == [[3], [58, 7], [3], [3], None, None, [3], [3], [5]]
        assert await limiter.peek_each([(PolicyCost(POLICIES[4], 1), alice)]) == [None]
        assert await limiter.peek_each([]) == []

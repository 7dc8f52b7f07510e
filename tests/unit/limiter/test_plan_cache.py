"""Plan cache: constant plans are cached, and all others are made for each check."""

import pytest

from fleetlimit.core.key_parts import KeyPart
from fleetlimit.core.keys import MAX_CACHED_CHARS, KeyScheme
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.plan import MAX_CACHED_PLANS, Plan, PlanCache, PolicyCost, make_plan
from support.limiter import Bench, concurrency_policy, rate_policy

KEY_SCHEME = KeyScheme()
ANN = Principal("ann")
TEN = rate_policy("p", "10/minute")
FIVE = Policy(
    "p", (rate_quota("5/minute"),), tiers={"pro": (rate_quota("50/minute"),)}, enforce_percent=100
)


def planned(
    cache: PlanCache,
    *policies: Policy,
    caller: Principal = ANN,
    route: str = "GET /",
    cost: int = 1,
) -> Plan:
    costs = [PolicyCost(policy, cost) for policy in policies]
    subject = Subject(principal=caller, route=route)
    plan = cache.plan_for(costs, subject)
    if not plan.has_leases:
        assert plan == make_plan(costs, subject, KEY_SCHEME)
    return plan


def test_plan_cache_returns_the_same_plan() -> None:
    """The same policies at the same cost on the same route have the same plan."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    assert planned(cache, TEN) is planned(cache, TEN)
    assert planned(cache, rate_policy("p", "10/minute")) is planned(cache, TEN)
    assert planned(cache, TEN, rate_policy("q", "5/hour")).charges[1].key.split(":")[2] == "q"


def test_plan_cache_separates_different_checks() -> None:
    """Another caller, tier, route, cost, or policy of the same name has another plan."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    routed = Policy("p", TEN.limits, key=(KeyPart.parse("principal"), KeyPart.parse("route")))
    for _ in range(2):
        planned(cache, TEN)
        planned(cache, TEN, cost=2)
        planned(cache, TEN, caller=Principal("bob"))
        planned(cache, FIVE)
        planned(cache, FIVE, caller=Principal("ann", "pro"))
        planned(cache, routed)
        planned(cache, routed, route="GET /other")
    assert (planned(cache).policy_plans, planned(cache).charges) == ((), ())


def test_plan_cache_separates_unverified_callers() -> None:
    """An address with a false credential has other limits than without one, and not a name's."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    policy = Policy("p", "50/minute", tiers={"free": "5/minute"})
    for _ in range(2):
        limits = [
            cache.plan_for([PolicyCost(policy, 1)], subject).charges[0].quota.limit
            for subject in (
                Subject("192.0.2.1"),
                Subject("192.0.2.1", unverified=True),
                Subject("192.0.2.2", Principal("192.0.2.1")),
                Subject("192.0.2.2", Principal("192.0.2.1"), unverified=True),
            )
        ]
        assert limits == [50, 5, 50, 50]


@pytest.mark.parametrize(
    "policy",
    [
        Policy("p", TEN.limits, key=(KeyPart.parse("header:x-team"),)),
        Policy("p", TEN.limits, key=(KeyPart.parse("client_address"),)),
        Policy("p", TEN.limits, enforce_percent=50),
        concurrency_policy("p", 2),
    ],
    ids=["header", "address", "percentage", "leases"],
)
def test_plan_cache_ignores_plans_that_are_not_constant(policy: Policy) -> None:
    """A plan that may differ in the caller's next request is not cached."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    assert planned(cache, policy) is not planned(cache, policy)


def test_plan_cache_is_bounded() -> None:
    """Beyond its bound the cache drops the oldest plan."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    first = planned(cache, TEN, caller=Principal("caller0"), route="GET /0")
    for number in range(1, MAX_CACHED_PLANS):
        planned(cache, TEN, caller=Principal(f"caller{number // 2}"), route=f"GET /{number % 2}")
    assert len(cache) == MAX_CACHED_PLANS
    assert planned(cache, TEN, caller=Principal("caller0"), route="GET /0") is first
    planned(cache, TEN)
    assert len(cache) == MAX_CACHED_PLANS
    assert planned(cache, TEN, caller=Principal("caller0"), route="GET /0") is not first


def test_plan_cache_replaces_a_callers_plan() -> None:
    """A cost that varies from request to request does not evict other callers."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    other = planned(cache, TEN, caller=Principal("bob"))
    for cost in range(MAX_CACHED_PLANS + 1):
        planned(cache, TEN, cost=cost % 2)
    assert planned(cache, TEN, caller=Principal("bob")) is other


def test_plan_cache_shares_policy_plans() -> None:
    """The callers of a route share the policies' part of their plans."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    ann, bob = (planned(cache, FIVE, caller=Principal(name)) for name in ("ann", "bob"))
    assert ann.policy_plans is bob.policy_plans
    assert ann.charges != bob.charges


def test_plan_cache_ignores_long_names() -> None:
    """A caller's name may be as long as a token, and must not fill the memory."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    costs = [PolicyCost(TEN, 1)]
    for length, cached in ((MAX_CACHED_CHARS, True), (MAX_CACHED_CHARS + 1, False)):
        name = "a" * length
        for subject in (Subject(principal=Principal(name)), Subject(client_address=name)):
            assert (cache.plan_for(costs, subject) is cache.plan_for(costs, subject)) is cached


def test_plan_cache_separates_names_and_addresses() -> None:
    """A principal and an anonymous caller have separate plans, whatever the name is."""
    cache = PlanCache(KEY_SCHEME, BucketEvents())
    costs = [PolicyCost(TEN, 1)]
    address = "192.0.2.1"
    by_name = cache.plan_for(costs, Subject(principal=Principal(address)))
    by_address = cache.plan_for(costs, Subject(client_address=address))
    assert by_name.charges[0].key != by_address.charges[0].key
    assert cache.plan_for(costs, Subject(client_address=address)) is by_address


async def test_plan_cache_is_cleared_by_new_policies() -> None:
    """A new policy set starts with an empty cache."""
    async with Bench(TEN) as bench:
        await bench.limiter.check("p", principal="ann")
        cache = bench.limiter._plan_cache
        assert len(cache) == 1
        bench.limiter.active_policies.replace(bench.limiter.active_policies.current)
        assert len(cache) == 0

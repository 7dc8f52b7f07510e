"""Plans are kept where a caller's next one is the same, and made anew everywhere else."""

import pytest

from fleetlimit.core.keys import MAX_CACHED_CHARS, KeyScheme
from fleetlimit.core.policy import KeyPart, Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.bucket_events import BucketEvents
from fleetlimit.limiter.plan import MAX_CACHED_PLANS, Plan, PlanCache, make_plan
from support.limiter import Bench, concurrency_policy, rate_policy

KEY_SCHEME = KeyScheme()
ANN = Principal("ann")
TEN = rate_policy("p", "10/minute")
FIVE = Policy(
    "p", (rate_quota("5/minute"),), tiers={"pro": (rate_quota("50/minute"),)}, enforce_percent=100
)


def planned(
    planner: PlanCache,
    *policies: Policy,
    caller: Principal = ANN,
    route: str = "GET /",
    cost: int = 1,
) -> Plan:
    asks = [(policy, cost) for policy in policies]
    subject = Subject(principal=caller, route=route)
    plan = planner.plan_for(asks, subject)
    if not plan.has_leases:
        assert plan == make_plan(asks, subject, KEY_SCHEME)
    return plan


def test_a_caller_who_comes_back_has_the_plan_of_before() -> None:
    """The same policies at the same cost on the same route are the same plan."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    assert planned(planner, TEN) is planned(planner, TEN)
    assert planned(planner, TEN, rate_policy("q", "5/hour")).charges[1].key.split(":")[2] == "q"


def test_whatever_changes_a_plan_is_told_apart() -> None:
    """Another caller, tier, route, cost, or policy of the same name has a plan of its own."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    routed = Policy("p", TEN.limits, key=(KeyPart.parse("principal"), KeyPart.parse("route")))
    for _ in range(2):
        planned(planner, TEN)
        planned(planner, TEN, cost=2)
        planned(planner, TEN, caller=Principal("bob"))
        planned(planner, FIVE)
        planned(planner, FIVE, caller=Principal("ann", "pro"))
        planned(planner, routed)
        planned(planner, routed, route="GET /other")
    assert (planned(planner).policy_plans, planned(planner).charges) == ((), ())


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
def test_what_depends_on_more_than_the_caller_is_made_anew(policy: Policy) -> None:
    """Nothing is kept that the next request of the same caller could have otherwise."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    assert planned(planner, policy) is not planned(planner, policy)


def test_plan_cache_is_bounded() -> None:
    """Beyond its bound the cache drops the oldest plan."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    first = planned(planner, TEN, caller=Principal("caller0"), route="GET /0")
    for number in range(1, MAX_CACHED_PLANS):
        planned(planner, TEN, caller=Principal(f"caller{number // 2}"), route=f"GET /{number % 2}")
    assert len(planner) == MAX_CACHED_PLANS
    assert planned(planner, TEN, caller=Principal("caller0"), route="GET /0") is first
    planned(planner, TEN)
    assert len(planner) == MAX_CACHED_PLANS
    assert planned(planner, TEN, caller=Principal("caller0"), route="GET /0") is not first


def test_a_plan_made_anew_for_the_same_caller_takes_the_place_of_the_one_before() -> None:
    """A cost that changes from request to request does not push out other callers."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    other = planned(planner, TEN, caller=Principal("bob"))
    for cost in range(MAX_CACHED_PLANS + 1):
        planned(planner, TEN, cost=cost % 2)
    assert planned(planner, TEN, caller=Principal("bob")) is other


def test_callers_of_a_route_share_what_is_the_same_for_all() -> None:
    """Which policies take part is kept once, and not once for each caller."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    ann, bob = (planned(planner, FIVE, caller=Principal(name)) for name in ("ann", "bob"))
    assert ann.policy_plans is bob.policy_plans
    assert ann.charges != bob.charges


def test_a_long_name_is_not_kept() -> None:
    """A caller may be called by as much as a token holds: that does not fill the memory either."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    asks = [(TEN, 1)]
    for length, kept in ((MAX_CACHED_CHARS, True), (MAX_CACHED_CHARS + 1, False)):
        name = "a" * length
        for subject in (Subject(principal=Principal(name)), Subject(client_address=name)):
            assert (planner.plan_for(asks, subject) is planner.plan_for(asks, subject)) is kept


def test_a_name_that_looks_like_an_address_is_another_caller() -> None:
    """A principal and an anonymous caller have plans of their own, whatever they are called."""
    planner = PlanCache(KEY_SCHEME, BucketEvents())
    asks = [(TEN, 1)]
    address = "192.0.2.1"
    by_name = planner.plan_for(asks, Subject(principal=Principal(address)))
    by_address = planner.plan_for(asks, Subject(client_address=address))
    assert by_name.charges[0].key != by_address.charges[0].key
    assert planner.plan_for(asks, Subject(client_address=address)) is by_address


async def test_plans_of_policies_that_are_gone_are_forgotten() -> None:
    """A new set of policies starts with nothing kept."""
    async with Bench(TEN) as bench:
        await bench.limiter.check("p", principal="ann")
        planner = bench.limiter._plan_cache
        assert len(planner) == 1
        bench.limiter.active_policies.replace(bench.limiter.active_policies.current)
        assert len(planner) == 0

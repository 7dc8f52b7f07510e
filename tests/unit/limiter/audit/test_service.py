"""Audit: the comparing replica, its findings, and how long they are shown."""

from fleetlimit.core.key_parts import KeyPart
from fleetlimit.core.keys import KeyScheme
from fleetlimit.core.policy import Mode, OnStoreError
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.audit.ledger import INTERVAL_US
from fleetlimit.limiter.audit.service import RETENTION_US, TTL_US
from fleetlimit.limiter.events import AuditReported, OvershootFound, PolicyAudit
from support.audit import AuditBench, saturate
from support.limiter import Bench, concurrency_policy, fixed_window, rate_policy, timeout_error
from support.stores import quota_of


async def test_audit_of_a_kept_limit_finds_nothing(bench: AuditBench) -> None:
    """One replica compares; all report what they admitted, and it is at most the permitted sum."""
    assert await saturate(bench, "a", "b", "c") == 6
    for _ in range(12):
        await bench.fleet.advance(5)
        await saturate(bench, "b", "c")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []
    assert [bench.fleet.last_audit(name, "p").callers for name in "abc"] == [1, 0, 0]
    admitted, permitted = (bench.fleet.total("p", figure) for figure in ("admitted", "permitted"))
    assert 12 <= admitted <= permitted
    assert bench.fleet.total("p", "intervals") >= 12


async def test_audit_finds_admissions_after_lost_buckets(bench: AuditBench) -> None:
    """Lost buckets admit once more what all replicas together had admitted."""
    await saturate(bench, "a", "b", "c")
    await bench.fleet.advance(1)
    await bench.lose_buckets()
    assert await saturate(bench, "b", "c") == 6
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") == 5
    caller = KeyScheme().digest("p\0principal\0ann")
    assert bench.fleet.overshoots() == [OvershootFound("p", "tb60", caller, 5)]
    assert bench.fleet.total("p", "admitted") == 12


async def test_audit_finds_a_loss_with_a_new_comparing_replica(bench: AuditBench) -> None:
    """A replica that starts to compare opens ledgers at the store's balance.

    Of the six units, those within the intervals' ends and the rounding of the balance are missed.
    """
    for _ in range(12):
        await saturate(bench, "a", "b", "c")
        await bench.fleet.advance(5)
    del bench.fleet.members["a"]
    for _ in range(6):
        await saturate(bench, "b", "c")
        await bench.fleet.advance(5)
    assert (bench.fleet.last_audit("b", "p").callers, bench.fleet.overshoots()) == (
        1,
        [],
    )
    await bench.lose_buckets()
    assert await saturate(bench, "b", "c") == 6
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") >= 3


async def test_audit_finds_a_loss_after_an_outage(bench: AuditBench) -> None:
    """Admissions from just before the outage are reported after it."""
    await bench.fleet.advance(30)
    await saturate(bench, "b")
    await bench.lose_buckets()
    # No report is sent during the outage, which is longer than the TTL of reports.
    bench.clock.advance_us(32 * SECOND_US)
    assert await saturate(bench, "c") == 6
    await bench.fleet.advance_until_compared()
    # Six units were permitted, and three more in 32 s; the intervals' ends leave one open.
    assert bench.fleet.overshoot("p") == 12 - 6 - 3 - 1


async def test_audit_shows_an_overshoot_for_minutes(bench: AuditBench) -> None:
    """It falls back by itself, also at a replica that does not compare any more."""
    await saturate(bench, "a")
    await bench.lose_buckets()
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("a", "p").overshoot == 5
    bench.fleet.join("0")
    await bench.fleet.advance(2)
    await saturate(bench, "a")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("0", "p").callers == 1
    assert [bench.fleet.last_audit(name, "p").overshoot for name in "0a"] == [0, 5]
    bench.clock.advance_us(RETENTION_US)
    await bench.fleet.audit_all()
    assert bench.fleet.overshoot("p") == 0


async def test_audit_shows_the_worst_caller(bench: AuditBench) -> None:
    """Not the sum over callers; one event names the worst."""
    for caller in ("ann", "bob"):
        await bench.fleet.spend("a", "p", caller, times=6)
    await bench.lose_buckets()
    await bench.fleet.spend("b", "p", "ann", times=2)
    await bench.fleet.spend("b", "p", "bob", times=4)
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") == 3
    assert [event.units for event in bench.fleet.overshoots()] == [3]


async def test_audit_is_limited_to_the_smallest_ranks() -> None:
    """The other callers do not count as admitted either, once the bound is known."""
    bench = AuditBench(audit_callers=2)
    for _ in range(30):
        for number in range(9):
            await bench.fleet.spend("abc"[number % 3], "p", f"caller{number}")
        await bench.fleet.advance(5)
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("a", "p").callers == 2
    admitted, permitted = (bench.fleet.total("p", figure) for figure in ("admitted", "permitted"))
    assert 0 < admitted <= permitted
    bounds = bench.fleet["b"].audit._bounds
    assert bounds is not None
    assert list(bounds) == ["p token_bucket 6 60000000 6"]


async def test_audit_reopens_a_ledger_after_missing_intervals(bench: AuditBench) -> None:
    """Missing intervals are not treated as empty."""
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    a = bench.fleet.members.pop("a")
    # Only the comparing replica loses its connection for a while.
    for _ in range(12):
        await bench.fleet.advance(5)
        await saturate(bench, "b")
    bench.fleet.members["a"] = a
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        1,
    )


async def test_audit_reopens_a_ledger_after_an_hour(bench: AuditBench) -> None:
    """After a gap of more than an hour the ledger is reopened."""
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    bench.clock.advance_us(721 * INTERVAL_US)
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        0,
    )


async def test_audit_covers_enforced_charges_of_the_store_only() -> None:
    """Shadow policies, leases, local shares and fail-open requests are not audited."""
    shadow = rate_policy("s", "1/minute", mode=Mode.SHADOW)
    local = rate_policy("l", "1/minute")
    opened = rate_policy("o", "1/minute", on_store_error=OnStoreError.ALLOW)
    async with Bench(shadow, local, opened, concurrency_policy("c", 1), failures=9) as bench:
        await bench.limiter.check("s", principal="ann")
        await bench.limiter.reserve("c", principal="ann")
        bench.store.down = timeout_error()
        for policy in ("l", "o"):
            assert (await bench.limiter.check(policy, principal="ann")).allowed
        assert '"accounts":{}' in bench.limiter.audit.sample.snapshot()


async def test_audit_compares_each_limit_separately() -> None:
    """A policy of two limits shows the worse one."""
    bench = AuditBench(rate_policy("p", "6/minute", quota_of(Algorithm.SLIDING_LOG, 6)))
    await saturate(bench, "a", "b")
    await bench.lose_buckets()
    await saturate(bench, "b", "c")
    await bench.fleet.advance_until_compared()
    (event,) = bench.fleet.overshoots()
    assert (event.limit, event.units) == ("sl60", 6)
    assert bench.fleet.overshoot("p") == 6


async def test_audit_drops_a_removed_policy(bench: AuditBench) -> None:
    """When no caller was counted under it for some time."""
    await saturate(bench, "a")
    await bench.fleet.advance(20)
    for limiter in bench.fleet.members.values():
        limiter.active_policies.replace(PolicySet([rate_policy("q", "1/minute")]))
    await bench.fleet.advance(310)
    last = bench.fleet.recorders["a"].of(AuditReported)[-1]
    assert last == AuditReported((PolicyAudit("q", 0, 0, 0, 0, 0.0),))


async def test_audit_ignores_a_report_of_another_release(bench: AuditBench) -> None:
    """The other reports are compared."""
    await saturate(bench, "a")
    for _ in range(8):
        await bench.store.exchange_reports("z", "nonsense", "nonsense", TTL_US)
        await bench.fleet.advance(2)
    assert bench.fleet.last_audit("a", "p").callers == 1


async def test_audit_restarts_when_the_comparing_role_returns(bench: AuditBench) -> None:
    """The time in which another replica compared is unknown."""
    await saturate(bench, "c")
    await bench.fleet.advance_until_compared()
    bench.fleet.join("0")
    await bench.fleet.advance_until_compared()
    assert [bench.fleet.last_audit(name, "p").callers for name in "0a"] == [0, 0]
    del bench.fleet.members["0"]
    await bench.fleet.advance_until_compared()
    # No request was admitted since.
    assert bench.fleet.last_audit("a", "p").callers == 0


async def test_audit_last_report_is_complete() -> None:
    """No usage of a replica that shuts down is missing, and another one compares at once."""
    bench = AuditBench()
    await bench.fleet.advance(20)
    await bench.fleet["a"].start()
    await saturate(bench, "a")
    first = bench.fleet.members.pop("a")
    first.store.aclose = bench.store.open  # type: ignore[method-assign]  # the others still use it
    await first.aclose()
    await bench.lose_buckets()
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.last_audit("b", "p").callers == 1
    assert bench.fleet.overshoot("p") == 5


async def test_audit_finding_contains_the_callers_hash() -> None:
    """The hash is the caller's, whatever components the key has."""
    policy = rate_policy(
        "p", fixed_window(2), key=(KeyPart.parse("route"), KeyPart.parse("principal"))
    )
    bench = AuditBench(policy)
    subject = Subject(principal=Principal("ann"), route="POST /exports")
    for name in "ab":
        for _ in range(2):
            await bench.fleet[name].check("p", subject=subject)
        await bench.lose_buckets()
    await bench.fleet.advance_until_compared()
    (event,) = bench.fleet.overshoots()
    assert (event.units, len(event.caller)) == (2, 16 + 1 + 16)

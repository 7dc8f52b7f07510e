"""Audit: refunds, certain or not, cause no false overshoot and hide none."""

from fleetlimit.stores.memory import MemoryStore
from support.audit import MINUTE, AuditBench, saturate
from support.limiter import Bench, timeout_error


async def test_audit_of_a_reset_finds_no_overshoot(bench: AuditBench) -> None:
    """At any replica, and in the middle of an interval."""
    for _ in range(4):
        await saturate(bench, "a", "b")
        await bench.fleet.advance(7)
        await bench.fleet["c"].reset("p", principal="ann")
        await saturate(bench, "a", "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []


async def test_audit_permits_refunded_units() -> None:
    """Units that one replica refunds another one may admit."""
    bench = AuditBench()
    held = await bench.fleet["a"].reserve("p", principal="ann", cost=6)
    await bench.fleet.advance(1)
    await held.commit(1)
    assert await saturate(bench, "b") == 5
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        1,
    )
    await bench.lose_buckets()
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoot("p") > 0


async def test_audit_permits_a_commit_above_the_reservation() -> None:
    """A commit above the reservation may exceed the limit."""
    bench = AuditBench()
    held = await bench.fleet["a"].reserve("p", principal="ann", cost=6)
    await held.commit(12)
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []


async def test_audit_reopens_a_ledger_after_a_lost_refund(bench: AuditBench) -> None:
    """When the reply to a refund is lost the ledger is reopened, without a false overshoot."""
    held = await bench.fleet["a"].reserve("p", principal="ann", cost=6)
    await bench.fleet.advance(20)

    async def lost(*_: object) -> None:
        await MemoryStore.adjust(bench.store, *_)  # type: ignore[arg-type]  # as it was called
        raise timeout_error()

    settle, bench.store.adjust = bench.store.adjust, lost  # type: ignore[assignment,method-assign]  # this once
    await held.refund()
    bench.store.adjust = settle  # type: ignore[method-assign]  # as it was
    assert await saturate(bench, "b") == 6
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []


async def test_audit_ignores_a_refund_that_was_not_sent() -> None:
    """While the breaker is open no refund is sent, and the ledger continues."""
    async with Bench(MINUTE, failures=1) as bench:
        held = await bench.limiter.reserve("p", principal="ann")
        bench.store.down = timeout_error()
        await bench.limiter.check("p", principal="ann")
        await held.refund()
        assert '"invalidations":{}' in bench.limiter.audit.sample.snapshot()


async def test_audit_reopens_a_ledger_after_a_replica_with_refunds_died(bench: AuditBench) -> None:
    """Its last refunds may not be reported."""
    held = [await bench.fleet["c"].reserve("p", principal="ann", cost=3) for _ in range(2)]
    await held[0].refund()
    await bench.fleet.advance(20)
    assert bench.fleet.last_audit("a", "p").callers == 1
    await held[1].refund()
    del bench.fleet.members["c"]
    assert await saturate(bench, "b") == 6
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        0,
    )
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    await saturate(bench, "b")
    await bench.fleet.advance_until_compared()
    assert (bench.fleet.overshoots(), bench.fleet.last_audit("a", "p").callers) == (
        [],
        1,
    )

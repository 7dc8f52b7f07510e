"""What is given back, or may have been, is no overshoot and hides none."""

from fleetlimit.stores.memory import MemoryStore
from support.audit import MINUTE, AuditBench, saturate
from support.limiter import Bench, timeout_error


async def test_a_reset_is_no_overshoot(bench: AuditBench) -> None:
    """At whichever replica it was, and in the midst of a slot."""
    for _ in range(4):
        await saturate(bench, "a", "b")
        await bench.fleet.advance(7)
        await bench.fleet["c"].reset("p", principal="ann")
        await saturate(bench, "a", "b")
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []


async def test_a_refund_makes_room() -> None:
    """What one replica gives back another one may let in; what was spent is not forgotten."""
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


async def test_what_is_spent_without_asking_is_no_overshoot() -> None:
    """A commit above the reservation is beyond the limit by agreement."""
    bench = AuditBench()
    held = await bench.fleet["a"].reserve("p", principal="ann", cost=6)
    await held.commit(12)
    await bench.fleet.advance_until_compared()
    assert bench.fleet.overshoots() == []


async def test_a_refund_that_may_have_been_made(bench: AuditBench) -> None:
    """When the store's answer is lost the caller's audit starts anew, and reads nothing false."""
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


async def test_a_refund_that_was_not_asked_for() -> None:
    """While the breaker is open nothing is given back, and the audit goes on."""
    async with Bench(MINUTE, failures=1) as bench:
        held = await bench.limiter.reserve("p", principal="ann")
        bench.store.down = timeout_error()
        await bench.limiter.check("p", principal="ann")
        await held.refund()
        assert '"breaks":{}' in bench.limiter.audit.sample.snapshot()


async def test_who_dies_after_giving_back(bench: AuditBench) -> None:
    """Its refunds may not all be stated: the caller's audit starts anew without it."""
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

"""Reservations: a cost that is corrected once, in the right bucket."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fleetlimit.core.charge import Adjustment, Charge
from fleetlimit.core.keys import parse_bucket_key
from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.errors import BucketCorrupt, CostError
from fleetlimit.limiter.events import CheckDecided, StoreFailed
from fleetlimit.limiter.ports import AdjustFailed
from fleetlimit.limiter.store_replies import AcquireResult
from support.limiter import (
    Bench,
    FakeStore,
    concurrency_policy,
    rate_policy,
    remaining,
    timeout_error,
)


async def test_commit_refunds_the_unused_cost_limitador_506() -> None:
    """The actual cost stays spent; the difference is refunded."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=8)
        await reservation.commit(3)
        assert await bench.remaining("a") == 7


async def test_corrections_change_the_status_and_no_event() -> None:
    """The reservation states the units after each correction; the event has those of the check."""
    policies = (rate_policy("a", "10/minute"), concurrency_policy("c", 4))
    async with Bench(*policies) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann", cost=3)
        decided = reservation.decision

        def left() -> list[int]:
            return [remaining(each.limits[0]) for each in reservation.decision.results]

        assert left() == [7, 1]
        corrected: list[list[int]] = []
        reservation.on_corrected = lambda: corrected.append(left())
        await reservation.for_policy("a").commit(1)
        assert left() == [9, 1]
        await reservation.release()
        assert left() == [9, 4]
        assert corrected == [[9, 1], [9, 4]]
        assert bench.recorder.of(CheckDecided)[0].decision is decided
        assert [remaining(each.limits[0]) for each in decided.results] == [7, 1]


class PartlyCorruptStore(FakeStore):
    """Store in which the buckets of policy `b` have foreign values when they are adjusted."""

    async def adjust(self, adjustments: Sequence[Adjustment]) -> Sequence[int]:
        """Adjust the other buckets."""
        corrupt = [each for each in adjustments if parse_bucket_key(each.key).policy == "b"]
        others = [each for each in adjustments if each not in corrupt]
        times_us = await super().adjust(others)
        raise AdjustFailed(
            {each.key: BucketCorrupt("no bucket", kind="wrong_type") for each in corrupt},
            {each.key: at_us for each, at_us in zip(others, times_us, strict=True)},
        )


class PartlyCorruptBench(Bench):
    """Limiter over such a store."""

    def make_store(self) -> FakeStore:
        """Return the store."""
        return PartlyCorruptStore(self.clock)


async def test_corrupt_bucket_does_not_hide_the_correction_of_another() -> None:
    """The reservation states the units of the buckets that were adjusted."""
    policies = (rate_policy("a", "10/minute"), rate_policy("b", "10/minute"))
    async with PartlyCorruptBench(*policies) as bench:
        reservation = await bench.limiter.reserve("a", "b", principal="ann", cost=8)
        await reservation.commit(3)
        assert await bench.remaining("a") == 7
        left = [remaining(each.limits[0]) for each in reservation.decision.results]
        assert left == [7, 2]
        (failed,) = bench.recorder.of(StoreFailed)
        assert (failed.operation, failed.error.kind) == ("adjust", "wrong_type")


async def test_commit_spends_a_cost_above_the_reservation() -> None:
    """A request that cost more than it reserved delays later ones."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=2)
        await reservation.commit(12)
        denied = await bench.limiter.check("a", principal="ann")
        assert denied.retry_after_us == 18_000_000


async def test_commit_of_the_reserved_cost_makes_no_call() -> None:
    """Without a difference the store is not called."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=2)
        await reservation.commit(2)
        await reservation.release()
        assert bench.store.count("adjust") == 0


async def test_reservation_is_corrected_once() -> None:
    """A second commit or refund changes nothing."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        await bench.limiter.check("a", principal="ann", cost=5)
        reservation = await bench.limiter.reserve("a", principal="ann", cost=4)
        await reservation.commit(3)
        await reservation.refund()
        await reservation.commit(0)
        assert await bench.remaining("a") == 2


async def test_commit_uses_the_units_of_each_limit() -> None:
    """With a cost factor of three, three units are refunded for each unit of cost."""
    async with Bench(rate_policy("a", rate_quota("30/minute", cost=3))) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=5)
        await reservation.commit(2)
        assert await bench.remaining("a") == 24


async def test_commit_rejects_a_negative_cost() -> None:
    """A commit below 0 raises, and a valid one may follow."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=5)
        with pytest.raises(CostError):
            await reservation.commit(-1)
        await reservation.commit(1)
        assert await bench.remaining("a") == 9


async def test_fractional_costs_are_rejected() -> None:
    """A check and a commit of a fraction raise, and spend nothing."""
    fraction: Any = 1.5
    async with Bench(rate_policy("a", "10/minute")) as bench:
        with pytest.raises(CostError, match=r"a cost is a whole number, not 1\.5"):
            await bench.limiter.check("a", principal="ann", cost=fraction)
        reservation = await bench.limiter.reserve("a", principal="ann", cost=5)
        with pytest.raises(CostError, match=r"a cost is a whole number, not 1\.5"):
            await reservation.commit(fraction)
        await reservation.commit(2)
        assert await bench.remaining("a") == 8


async def test_refund_of_a_denied_request_does_nothing() -> None:
    """A denied request has nothing to refund."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await bench.limiter.check("a", principal="ann")
        for _ in range(2):
            reservation = await bench.limiter.reserve("a", principal="ann")
            await reservation.refund()
        assert bench.store.count("adjust") == 0
        assert await bench.remaining("a") == 0


async def test_for_policy_corrects_one_policy() -> None:
    """The other policies and the leases stay unchanged."""
    async with Bench(
        rate_policy("a", "10/minute"), rate_policy("b", "10/minute"), concurrency_policy("c", 1)
    ) as bench:
        reservation = await bench.limiter.reserve("a", "b", "c", principal="ann")
        for name in ("a", "c", "unknown"):
            part = reservation.for_policy(name)
            assert part.decision is reservation.decision
            assert not part.leases
            await part.refund()
        assert (await bench.remaining("a"), await bench.remaining("b")) == (10, 9)
        assert await bench.remaining("c") == 0
        await reservation.release()
        assert await bench.remaining("c") == 1


async def test_release_of_a_part_returns_its_units_alone() -> None:
    """A route may release one `concurrency` limit before its response ends."""
    policies = (concurrency_policy("a", 3), concurrency_policy("b", 3), rate_policy("c", "9/day"))
    async with Bench(*policies) as bench:
        reservation = await bench.limiter.reserve("a", "b", "c", principal="ann")
        for _ in range(2):
            await reservation.for_policy("a").release()
            assert [await bench.remaining(name) for name in "abc"] == [3, 2, 8]
        await reservation.for_policy("c").release()
        assert await bench.remaining("b") == 2
        await reservation.for_policy("b").release()
        assert [await bench.remaining(name) for name in "abc"] == [3, 3, 8]
        assert not reservation.holds_leases


async def test_release_of_a_locally_decided_part_returns_its_units() -> None:
    """The local store has the units of a policy that was decided without the store."""
    policy = concurrency_policy("a", 3, on_store_error="local")
    async with Bench(policy, rate_policy("c", "9/day")) as bench:
        bench.store.down = timeout_error()
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        assert reservation.holds_leases
        await reservation.for_policy("a").release()
        assert not reservation.holds_leases


async def test_for_policy_of_the_only_policy_is_the_reservation() -> None:
    """With one policy and no leases, `for_policy` returns the reservation itself."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=4)
        assert reservation.for_policy("a") is reservation
        assert reservation.for_policy("unknown") is not reservation
        await reservation.for_policy("a").refund()
        await reservation.refund()
        assert await bench.remaining("a") == 10


@pytest.mark.parametrize("whole_first", [False, True])
async def test_for_policy_and_the_whole_are_refunded_once(whole_first: bool) -> None:  # noqa: FBT001 - a case
    """Two refunds of one policy's part are one refund."""
    async with Bench(rate_policy("a", "10/minute"), rate_policy("b", "10/minute")) as bench:
        await bench.limiter.check("a", "b", principal="ann", cost=5)
        reservation = await bench.limiter.reserve("a", "b", principal="ann", cost=2)
        owners = [reservation.for_policy("a"), reservation.for_policy("a"), reservation]
        for owner in reversed(owners) if whole_first else owners:
            await owner.refund()
        assert (await bench.remaining("a"), await bench.remaining("b")) == (5, 5)


async def test_commit_after_release() -> None:
    """A cost that is known after the request has ended is corrected, the lease only once."""
    async with Bench(rate_policy("a", "10/minute"), concurrency_policy("c", 2)) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        async with await bench.limiter.reserve("c", principal="ann"):
            await reservation.release()
            await reservation.release()
            assert await bench.remaining("c") == 1
            await reservation.commit(4)
            assert (await bench.remaining("a"), await bench.remaining("c")) == (6, 1)
        assert len([each for each in bench.store.adjustments if each.lease]) == 2


async def test_commit_releases_the_lease() -> None:
    """A lease is held for the duration of the request, whatever its cost is."""
    async with Bench(rate_policy("a", "10/minute"), concurrency_policy("c", 1)) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        await reservation.commit(7)
        assert (await bench.remaining("a"), await bench.remaining("c")) == (3, 1)


async def test_correction_raises_nothing_without_the_store() -> None:
    """Units that cannot be refunded expire, and the request does not fail."""
    async with Bench(rate_policy("a", "10/minute"), concurrency_policy("c", 1)) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        bench.store.down = timeout_error()
        await reservation.refund()
        bench.store.down = None
        bench.clock.advance(60)
        assert (await bench.remaining("a"), await bench.remaining("c")) == (10, 1)


async def test_refund_has_the_time_at_which_each_slot_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The servers of a Cluster's slots have clocks of their own; a sliding log refunds by time."""
    rates = (rate_quota("5/minute", algorithm=Algorithm.SLIDING_LOG), rate_quota("9/hour"))
    async with Bench(rate_policy("a", *rates), rate_policy("b", "7/minute")) as bench:

        async def acquire(charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
            result = await bench.store.memory.acquire(charges, dry_run=dry_run)
            return replace(result, store_acquired_at_us_by_charge=(11, 22, 33))

        monkeypatch.setattr(bench.store, "acquire", acquire)
        reservation = await bench.limiter.reserve("a", "b", principal="ann")
        await reservation.for_policy("b").refund()
        await reservation.refund()
        assert [each.store_acquired_at_us for each in bench.store.adjustments] == [33, 11, 22]

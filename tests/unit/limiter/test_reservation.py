"""Reservations: a cost known only later, corrected once and in the right place."""

import pytest

from fleetlimit.core.quota import rate_quota
from fleetlimit.errors import CostError
from support.limiter import Bench, concurrency_policy, rate_policy, timeout_error


async def test_a_commit_gives_back_what_was_not_used_limitador_506() -> None:
    """What the request really cost stays spent; the rest is given back."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=8)
        await reservation.commit(3)
        assert await bench.remaining("a") == 7


async def test_a_commit_spends_what_was_used_beyond_the_reservation() -> None:
    """A request that cost more than it reserved delays those who come after."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=2)
        await reservation.commit(12)
        refused = await bench.limiter.check("a", principal="ann")
        assert refused.retry_after_us == 18_000_000


async def test_a_commit_of_the_reserved_cost_asks_the_store_nothing() -> None:
    """Where nothing is to correct the store is not called."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=2)
        await reservation.commit(2)
        await reservation.release()
        assert bench.store.count("adjust") == 0


async def test_only_the_first_correction_counts() -> None:
    """A second commit or refund changes nothing."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        await bench.limiter.check("a", principal="ann", cost=5)
        reservation = await bench.limiter.reserve("a", principal="ann", cost=4)
        await reservation.commit(3)
        await reservation.refund()
        await reservation.commit(0)
        assert await bench.remaining("a") == 2


async def test_a_limit_with_a_cost_of_its_own_is_corrected_in_its_units() -> None:
    """Where each unit of cost spends three of a limit, three are given back for each."""
    async with Bench(rate_policy("a", rate_quota("30/minute", cost=3))) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=5)
        await reservation.commit(2)
        assert await bench.remaining("a") == 24


async def test_a_negative_cost_is_an_error_and_changes_nothing() -> None:
    """A commit below 0 raises, and a good one may follow."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=5)
        with pytest.raises(CostError):
            await reservation.commit(-1)
        await reservation.commit(1)
        assert await bench.remaining("a") == 9


async def test_a_refused_request_has_nothing_to_give_back() -> None:
    """A refund of what was refused makes no room."""
    async with Bench(rate_policy("a", "1/minute")) as bench:
        await bench.limiter.check("a", principal="ann")
        for _ in range(2):
            reservation = await bench.limiter.reserve("a", principal="ann")
            await reservation.refund()
        assert bench.store.count("adjust") == 0
        assert await bench.remaining("a") == 0


async def test_a_part_is_corrected_apart() -> None:
    """`under` corrects one policy, and leaves the others and the leases alone."""
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


async def test_a_part_that_is_all_there_is_is_the_whole() -> None:
    """Where there are one policy and no leases, `under` has nothing to take apart."""
    async with Bench(rate_policy("a", "10/minute")) as bench:
        reservation = await bench.limiter.reserve("a", principal="ann", cost=4)
        assert reservation.for_policy("a") is reservation
        assert reservation.for_policy("unknown") is not reservation
        await reservation.for_policy("a").refund()
        await reservation.refund()
        assert await bench.remaining("a") == 10


@pytest.mark.parametrize("whole_first", [False, True])
async def test_a_part_and_the_whole_are_not_both_given_back(whole_first: bool) -> None:  # noqa: FBT001 - a case
    """What two owners of one policy's part give back is given back once."""
    async with Bench(rate_policy("a", "10/minute"), rate_policy("b", "10/minute")) as bench:
        await bench.limiter.check("a", "b", principal="ann", cost=5)
        reservation = await bench.limiter.reserve("a", "b", principal="ann", cost=2)
        owners = [reservation.for_policy("a"), reservation.for_policy("a"), reservation]
        for owner in reversed(owners) if whole_first else owners:
            await owner.refund()
        assert (await bench.remaining("a"), await bench.remaining("b")) == (5, 5)


async def test_a_commit_after_the_release_still_counts() -> None:
    """A cost that is known only after the work has ended is corrected, the lease only once."""
    async with Bench(rate_policy("a", "10/minute"), concurrency_policy("c", 2)) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        async with await bench.limiter.reserve("c", principal="ann"):
            await reservation.release()
            await reservation.release()
            assert await bench.remaining("c") == 1
            await reservation.commit(4)
            assert (await bench.remaining("a"), await bench.remaining("c")) == (6, 1)
        assert len([each for each in bench.store.adjustments if each.lease]) == 2


async def test_a_commit_gives_the_lease_back_whatever_the_cost() -> None:
    """A lease is held for the time of the request, not for its cost."""
    async with Bench(rate_policy("a", "10/minute"), concurrency_policy("c", 1)) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        await reservation.commit(7)
        assert (await bench.remaining("a"), await bench.remaining("c")) == (3, 1)


async def test_a_correction_raises_nothing_when_the_store_is_away() -> None:
    """What cannot be given back expires by itself; the request does not hear of it."""
    async with Bench(rate_policy("a", "10/minute"), concurrency_policy("c", 1)) as bench:
        reservation = await bench.limiter.reserve("a", "c", principal="ann")
        bench.store.down = timeout_error()
        await reservation.refund()
        bench.store.down = None
        bench.clock.advance(60)
        assert (await bench.remaining("a"), await bench.remaining("c")) == (10, 1)

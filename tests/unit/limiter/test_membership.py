"""The census: how many replicas share a limit, and whether the store still has its state."""

from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.events import (
    ReplicasCounted,
    StoreFailed,
    StoreServerChanged,
    StoreStateLost,
)
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.membership import INTERVAL_SECONDS, TTL_US, ReplicaMembership
from fleetlimit.limiter.ports import HeartbeatReply
from fleetlimit.stores.memory import MemoryStore
from support.limiter import Bench, FakeStore, ManualClock, ManualSleep, Recorder, timeout_error


class MembershipBench:
    """A census with everything that it is given."""

    def __init__(self) -> None:
        self.store = FakeStore(ManualClock())
        self.recorder = Recorder()
        self.pauses = ManualSleep()
        tell = self.recorder.on_event
        breaker = CircuitBreaker(BreakerSettings(failures=1_000), self.store.open, tell)
        self.membership = ReplicaMembership(
            self.store, breaker, tell, replica="me", sleep=self.pauses
        )


async def test_a_replica_announces_itself_at_once_and_from_then_on() -> None:
    """The first announcement is made by start, and another after each pause."""
    town = MembershipBench()
    await town.membership.start()
    assert town.store.heartbeats == [("me", TTL_US)]
    for beat in (1, 2):
        await town.pauses.wait_for_calls(beat)
        town.pauses.finish()
        await town.store.wait_until_done("heartbeat", beat + 1)
    assert town.pauses.requested.entries[:2] == [INTERVAL_SECONDS] * 2
    await town.membership.aclose()


async def test_two_announcements_may_be_missed() -> None:
    """A replica counts for long enough to miss two announcements and make the third."""
    assert TTL_US >= 3 * INTERVAL_SECONDS * 1_000_000


async def test_a_change_is_told_once() -> None:
    """The number of replicas is told when it changes, and not when it stays."""
    town = MembershipBench()
    for replicas in (1, 3, 3, 2):
        town.store.heartbeat_reply = HeartbeatReply(replicas, "first")
        await town.membership.heartbeat()
    assert town.recorder.of(ReplicasCounted) == [ReplicasCounted(count) for count in (1, 3, 2)]
    assert town.membership.replicas == 2


async def test_a_lost_state_is_told_once() -> None:
    """A new epoch is told once, and the first epoch of all is no news."""
    town = MembershipBench()
    for epoch in ("first", "first", "second", "second", "third"):
        town.store.heartbeat_reply = HeartbeatReply(1, epoch)
        await town.membership.heartbeat()
    assert town.recorder.of(StoreStateLost) == [StoreStateLost()] * 2


async def test_another_server_with_the_state_is_told_once() -> None:
    """A failover, or a restart from a snapshot, is told of; one that lost all is a lost state."""
    town = MembershipBench()
    for epoch, server in (("1", "a"), ("1", "a"), ("1", "b"), ("1", "b"), ("2", "c")):
        town.store.heartbeat_reply = HeartbeatReply(1, epoch, server)
        await town.membership.heartbeat()
    assert town.recorder.of(StoreServerChanged) == [StoreServerChanged()]
    assert town.recorder.of(StoreStateLost) == [StoreStateLost()]


async def test_replicas_have_time_to_return_after_an_outage() -> None:
    """The first replica back does not count itself alone until the others could announce."""
    town = MembershipBench()
    town.store.heartbeat_reply = HeartbeatReply(3, "first")
    await town.membership.heartbeat()
    town.store.down = timeout_error()
    await town.membership.heartbeat()
    town.store.down, town.store.heartbeat_reply = None, HeartbeatReply(1, "second")
    counts = []
    for _ in range(5):
        await town.membership.heartbeat()
        counts.append(town.membership.replicas)
    assert counts == [3, 3, 3, 1, 1]


async def test_a_replica_counts_with_as_many_as_it_is_told() -> None:
    """A replica that starts while the store is away divides by the number it is given."""
    async with Bench() as bench:
        limiter = Limiter(bench.store, local=MemoryStore(), min_replicas=3)
        bench.store.down = timeout_error()
        await limiter.start()
        assert limiter.membership.replicas == 3
        await limiter.aclose()


async def test_the_last_known_number_is_kept_while_the_store_is_away() -> None:
    """A store that does not answer changes nothing, and stops nothing."""
    town = MembershipBench()
    town.store.heartbeat_reply = HeartbeatReply(4, "first")
    await town.membership.start()
    town.store.down = timeout_error()
    await town.pauses.wait_for_calls(1)
    town.pauses.finish()
    await town.pauses.wait_for_calls(2)
    assert town.membership.replicas == 4
    assert [event.operation for event in town.recorder.of(StoreFailed)] == ["heartbeat"]
    await town.membership.aclose()


async def test_there_is_always_one_replica() -> None:
    """A store that counts nobody does not make the share infinite."""
    town = MembershipBench()
    for replicas in (3, 0):
        town.store.heartbeat_reply = HeartbeatReply(replicas, "first")
        await town.membership.heartbeat()
    assert town.membership.replicas == 1


async def test_a_replica_leaves_on_close_and_only_once() -> None:
    """Closing announces for no time at all, so that the others' shares grow at once."""
    town = MembershipBench()
    await town.membership.start()
    await town.membership.aclose()
    await town.membership.aclose()
    assert town.store.heartbeats == [("me", TTL_US), ("me", 0)]


async def test_leaving_a_store_that_is_away_is_no_error() -> None:
    """A replica whose farewell fails is gone all the same."""
    town = MembershipBench()
    await town.membership.start()
    town.store.down = timeout_error()
    await town.membership.aclose()


async def test_a_census_that_never_began_has_nothing_to_end() -> None:
    """Closing without start says nothing to the store."""
    town = MembershipBench()
    await town.membership.aclose()
    assert town.store.calls == []


async def test_a_store_of_one_process_counts_nobody_else() -> None:
    """Over a store that is not shared there is one replica, and no announcements go on."""
    limiter = Limiter(MemoryStore(), local=MemoryStore())
    await limiter.start()
    assert limiter.membership.replicas == 1
    await limiter.aclose()


async def test_every_replica_has_a_name_of_its_own() -> None:
    """Replicas that are given no name make up different ones."""
    store = MemoryStore()
    names = {Limiter(store, local=store).membership.replica for _ in range(20)}
    assert len(names) == 20


async def test_a_limiter_that_starts_without_its_store_serves() -> None:
    """A store that is away at start is told of, and raises nothing."""
    async with Bench() as bench:
        bench.store.down = timeout_error()
        await bench.limiter.start()
        failed = [event.operation for event in bench.recorder.of(StoreFailed)]
        assert failed == ["open", "heartbeat"]

"""Replica membership: the number of replicas, and whether the store lost its state."""

import contextlib
import subprocess
import sys
from typing import Final

import pytest

from fleetlimit.core.keys import KeyScheme
from fleetlimit.errors import ConfigError, KeySecretError, StoreUnavailable
from fleetlimit.limiter.circuit_breaker import BreakerSettings, CircuitBreaker
from fleetlimit.limiter.events import (
    KeySecretsCounted,
    ReplicasCounted,
    StoreFailed,
    StoreJoined,
    StoreServerChanged,
    StoreStateLost,
)
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.membership import INTERVAL_SECONDS, TTL_US, ReplicaMembership
from fleetlimit.limiter.store_replies import HeartbeatReply
from fleetlimit.stores.memory import MemoryStore
from support.clock import ManualClock
from support.limiter import Bench, FakeStore, ManualSleep, Recorder, timeout_error

KEYS: Final = KeyScheme(b"the secret of the fleet")
OTHER: Final = KeyScheme(b"another secret of theirs").fingerprint


class MembershipBench:
    """A membership with its collaborators."""

    def __init__(self) -> None:
        self.store = FakeStore(ManualClock())
        self.recorder = Recorder()
        self.pauses = ManualSleep()
        emit = self.recorder.on_event
        breaker = CircuitBreaker(BreakerSettings(failures=1_000), self.store.open, emit)
        self.membership = ReplicaMembership(
            self.store,
            lambda: breaker,
            emit,
            key_scheme=KEYS,
            replica="me",
            sleep=self.pauses,
        )


async def test_membership_sends_heartbeats() -> None:
    """`start` sends the first heartbeat, and another follows each pause."""
    bench = MembershipBench()
    await bench.membership.start()
    assert bench.store.heartbeats == [("me", TTL_US)]
    for count in (1, 2):
        await bench.pauses.wait_for_calls(count)
        bench.pauses.finish()
        await bench.store.wait_until_done("heartbeat", count + 1)
    assert bench.pauses.requested.entries[:2] == [INTERVAL_SECONDS] * 2
    await bench.membership.aclose()


async def test_membership_survives_two_lost_heartbeats() -> None:
    """The TTL covers two lost heartbeats and the third one."""
    assert TTL_US >= 3 * INTERVAL_SECONDS * 1_000_000


async def test_membership_emits_changes_once() -> None:
    """The number of replicas is emitted when it changes, and not when it stays."""
    bench = MembershipBench()
    for replicas in (1, 3, 3, 2):
        bench.store.heartbeat_reply = HeartbeatReply(replicas, "first")
        await bench.membership.heartbeat()
    assert bench.recorder.of(ReplicasCounted) == [ReplicasCounted(count) for count in (1, 3, 2)]
    assert bench.membership.replicas == 2


async def test_membership_emits_a_lost_state_once() -> None:
    """A new epoch is emitted once; the first epoch is not a change."""
    bench = MembershipBench()
    for epoch in ("first", "first", "second", "second", "third"):
        bench.store.heartbeat_reply = HeartbeatReply(1, epoch)
        await bench.membership.heartbeat()
    assert bench.recorder.of(StoreStateLost) == [StoreStateLost()] * 2
    assert bench.recorder.of(StoreJoined) == [
        StoreJoined(epoch, KEYS.fingerprint) for epoch in ("first", "second", "third")
    ]


async def test_membership_emits_other_key_secrets_once() -> None:
    """A secret that differs is emitted when it appears and when it is gone."""
    bench = MembershipBench()
    own = KEYS.fingerprint
    for found in ({own}, {own, OTHER}, {own, OTHER}, {own}):
        bench.store.heartbeat_reply = HeartbeatReply(2, "first", key_secrets=frozenset(found))
        await bench.membership.heartbeat()
    assert bench.recorder.of(KeySecretsCounted) == [KeySecretsCounted(1), KeySecretsCounted(0)]


@pytest.mark.parametrize(
    ("found", "error", "message"),
    [
        ({OTHER}, KeySecretError, "give this process their FLEETLIMIT_KEY_SECRET"),
        ({OTHER, KEYS.fingerprint}, KeySecretError, "wait until every replica has it"),
        (set(), ConfigError, "fake:// has no record of a replica with the key prefix 'fl'"),
    ],
)
async def test_require_fleet_refuses_buckets_that_are_not_the_fleets(
    found: set[str], error: type[ConfigError], message: str
) -> None:
    """Another secret, two secrets, and a key prefix of no replica are errors with the fix."""
    bench = MembershipBench()
    bench.store.heartbeat_reply = HeartbeatReply(1, "first", key_secrets=frozenset(found))
    with pytest.raises(error, match=message):
        await bench.membership.require_fleet()


@pytest.mark.parametrize("others", [frozenset(), frozenset({OTHER})])
async def test_key_secrets_of_an_unavailable_server_are_those_of_the_last_heartbeat(
    others: frozenset[str],
) -> None:
    """Without the membership's shard, a reset is not an error, and another secret still is one."""
    bench = MembershipBench()
    bench.store.down = timeout_error()
    with pytest.raises(StoreUnavailable):
        await bench.membership.verify_key_secret()
    bench.store.down = None
    bench.store.heartbeat_reply = HeartbeatReply(
        2, "first", key_secrets=others | {KEYS.fingerprint}
    )
    await bench.membership.heartbeat()
    bench.store.down = timeout_error()
    if others:
        with pytest.raises(KeySecretError):
            await bench.membership.verify_key_secret()
    else:
        assert await bench.membership.verify_key_secret()


async def test_require_fleet_accepts_the_secret_of_the_fleet() -> None:
    """The fleet's secret is accepted, and so is a memory store."""
    bench = MembershipBench()
    bench.store.heartbeat_reply = HeartbeatReply(
        1, "first", key_secrets=frozenset({KEYS.fingerprint})
    )
    await bench.membership.require_fleet()
    memory = MemoryStore(ManualClock().monotonic_us)
    await Limiter(memory, local=memory).membership.require_fleet()


async def test_require_fleet_counts_this_replica() -> None:
    """A store that lost its state has no record of this replica until the next heartbeat."""
    bench = MembershipBench()
    bench.store.heartbeat_reply = HeartbeatReply(
        1, "first", key_secrets=frozenset({KEYS.fingerprint})
    )
    await bench.membership.start()
    for found, error in ((frozenset[str](), None), (frozenset({OTHER}), KeySecretError)):
        bench.store.heartbeat_reply = HeartbeatReply(0, "second", key_secrets=found)
        with contextlib.nullcontext() if error is None else pytest.raises(error):
            await bench.membership.require_fleet()
    await bench.membership.aclose()


async def test_membership_emits_a_changed_server_once() -> None:
    """A failover or a restart from a snapshot is emitted; with a lost state only that is."""
    bench = MembershipBench()
    for epoch, server in (("1", "a"), ("1", "a"), ("1", "b"), ("1", "b"), ("2", "c")):
        bench.store.heartbeat_reply = HeartbeatReply(1, epoch, server)
        await bench.membership.heartbeat()
    assert bench.recorder.of(StoreServerChanged) == [StoreServerChanged()]
    assert bench.recorder.of(StoreStateLost) == [StoreStateLost()]


async def test_membership_keeps_the_number_after_an_outage() -> None:
    """The first replica back keeps the number until the others could send a heartbeat."""
    bench = MembershipBench()
    bench.store.heartbeat_reply = HeartbeatReply(3, "first")
    await bench.membership.heartbeat()
    bench.store.down = timeout_error()
    await bench.membership.heartbeat()
    bench.store.down, bench.store.heartbeat_reply = None, HeartbeatReply(1, "second")
    counts = []
    for _ in range(5):
        await bench.membership.heartbeat()
        counts.append(bench.membership.replicas)
    assert counts == [3, 3, 3, 1, 1]


async def test_membership_starts_with_min_replicas() -> None:
    """A replica that starts without the store divides by the configured number."""
    async with Bench() as bench:
        limiter = Limiter(bench.store, local=MemoryStore(), min_replicas=3)
        bench.store.down = timeout_error()
        await limiter.start()
        assert limiter.membership.replicas == 3
        await limiter.aclose()


async def test_membership_keeps_the_number_during_an_outage() -> None:
    """A failing store neither changes the number nor stops the heartbeats."""
    bench = MembershipBench()
    bench.store.heartbeat_reply = HeartbeatReply(4, "first")
    await bench.membership.start()
    bench.store.down = timeout_error()
    await bench.pauses.wait_for_calls(1)
    bench.pauses.finish()
    await bench.pauses.wait_for_calls(2)
    assert bench.membership.replicas == 4
    assert [event.operation for event in bench.recorder.of(StoreFailed)] == ["heartbeat"]
    await bench.membership.aclose()


async def test_membership_counts_at_least_one_replica() -> None:
    """A store that counts no replica does not make the share infinite."""
    bench = MembershipBench()
    for replicas in (3, 0):
        bench.store.heartbeat_reply = HeartbeatReply(replicas, "first")
        await bench.membership.heartbeat()
    assert bench.membership.replicas == 1


async def test_membership_aclose_unregisters_once() -> None:
    """Closing sends a TTL of 0, so that the other replicas' shares grow at once."""
    bench = MembershipBench()
    await bench.membership.start()
    await bench.membership.aclose()
    await bench.membership.aclose()
    assert bench.store.heartbeats == [("me", TTL_US), ("me", 0)]


async def test_membership_aclose_ignores_an_unavailable_store() -> None:
    """A replica that cannot unregister is closed all the same."""
    bench = MembershipBench()
    await bench.membership.start()
    bench.store.down = timeout_error()
    await bench.membership.aclose()


async def test_membership_aclose_without_start() -> None:
    """Closing without start makes no call."""
    bench = MembershipBench()
    await bench.membership.aclose()
    assert bench.store.calls == []


async def test_membership_of_an_unshared_store_is_one() -> None:
    """With a store that is not shared there is one replica, and no periodic heartbeat."""
    limiter = Limiter(MemoryStore(), local=MemoryStore())
    await limiter.start()
    assert limiter.membership.replicas == 1
    await limiter.aclose()


async def test_membership_generates_unique_names() -> None:
    """Replicas without a configured name have different ones."""
    store = MemoryStore()
    names = {Limiter(store, local=store).membership.replica for _ in range(20)}
    assert len(names) == 20


async def test_limiter_starts_without_its_store() -> None:
    """A store that is unavailable at start is emitted, and raises nothing."""
    async with Bench() as bench:
        bench.store.down = timeout_error()
        await bench.limiter.start()
        failed = [event.operation for event in bench.recorder.of(StoreFailed)]
        assert failed == ["open", "heartbeat"]


_FORK: Final = """
import os
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.stores.memory import MemoryStore

limiter = Limiter(MemoryStore(), local=MemoryStore())
if {used_before}:
    print(limiter.membership.replica, flush=True)
for _ in range(2):
    pid = os.fork()
    if not pid:
        print(limiter.membership.replica, limiter.audit._get_replica(), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("used_before", [False, True])
def test_forked_processes_have_names_of_their_own(*, used_before: bool) -> None:
    """With `gunicorn --preload` the limiter is built before the workers are forked."""
    script = [sys.executable, "-c", _FORK.format(used_before=used_before)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len({line[0] for line in lines}) == 2 + used_before
    assert all(len(set(line)) == 1 for line in lines), "the audit reports under the same name"

"""Replies that no script sends: each call ends with its own result or a `StoreError`."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fleetlimit.core.quota import Algorithm
from fleetlimit.errors import StoreError
from fleetlimit.limiter.store_replies import AcquireResult, HeartbeatReply
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.store import RedisStore
from support.eventually import PATIENCE_SECONDS
from support.hostile_store import (
    FIRST_NUMBER,
    STORE_NOW_US,
    acquire,
    encode,
    hostile_store,
    store_of,
)
from support.stores import adjustment, charge, quota_of
from support.tracing import exact_cancellation

TIMEOUTS = Timeouts(connect=5.0, operation=0.05)
"""A reply that never completes costs an example the operation timeout."""
HANDSHAKE_TIMEOUTS = Timeouts(connect=0.2, operation=0.05)
"""In a handshake it costs the timeout of a connection."""
QUOTA = quota_of(Algorithm.TOKEN_BUCKET, 10)

_line = st.binary(max_size=12).filter(lambda text: b"\r" not in text and b"\n" not in text)
_errors = st.sampled_from(
    [
        b"ERR",
        b"",
        b"NOSCRIPT no script",
        b"READONLY replica",
        b"MOVED",
        b"MOVED 1 127.0.0.1:1",
        b"MOVED a b",
        b"ASK 1",
        b"ASK 1 127.0.0.1:1",
        b"TRYAGAIN",
        b"CLUSTERDOWN",
        b"LOADING",
        b"OOM command not allowed",
        b"NOAUTH",
        b"WRONGPASS",
        b"NOPERM",
        b"BUSY",
        b"\xff\xfe",
    ]
)
_numbers = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
_scalars = st.one_of(
    st.builds(b":%d\r\n".__mod__, _numbers),
    st.builds(encode, st.binary(max_size=12)),
    st.builds(b"+%b\r\n".__mod__, _line),
    st.builds(b"-%b\r\n".__mod__, _errors),
    st.builds(b"-%b\r\n".__mod__, _line),
    st.sampled_from([b",inf\r\n", b",nan\r\n", b",1.5\r\n", b"#t\r\n", b"#f\r\n", b"_\r\n"]),
    st.sampled_from([b"$-1\r\n", b"*-1\r\n", b"(" + b"9" * 400 + b"\r\n", b"=5\r\ntxt:a\r\n"]),
)


def _aggregate(kind: bytes, size: int, items: Sequence[bytes]) -> bytes:
    return kind + b"%d\r\n" % size + b"".join(items)


def _aggregates(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lists = st.lists(items, max_size=8)
    return st.one_of(
        lists.map(lambda each: _aggregate(b"*", len(each), each)),
        lists.map(lambda each: _aggregate(b"~", len(each), each)),
        lists.map(lambda each: _aggregate(b"%", len(each) // 2, each[: len(each) // 2 * 2])),
        lists.map(lambda each: _aggregate(b"|", len(each) // 2, each[: len(each) // 2 * 2])),
    )


_frames = st.recursive(_scalars, _aggregates, max_leaves=12)


def _changed(size: int, changes: dict[int, bytes]) -> bytes:
    """Return a list of as many numbers as the reply to a script has, with some replaced."""
    numbers = [b":1\r\n"] * size
    return _aggregate(b"*", size, [changes.get(at, number) for at, number in enumerate(numbers)])


# The sizes of a reply to two checks, to one, and to a heartbeat.
_almost_valid = st.builds(
    _changed,
    st.sampled_from([13, 13, 7, 3]),
    st.dictionaries(st.integers(0, 12), _scalars, max_size=3),
)
_pushes = st.lists(_frames, min_size=1, max_size=3).map(
    lambda each: _aggregate(b">", len(each), each)
)
_complete = st.one_of(
    _frames,
    st.tuples(_pushes, _frames).map(b"".join),
    st.tuples(_frames, _pushes).map(b"".join),
    st.just(_aggregate(b"*", 100, [b"*1\r\n"])),
)
_replies = st.one_of(
    _complete,
    st.tuples(_complete, st.integers(0, 40)).map(lambda each: each[0][: each[1]]),
    st.binary(max_size=24),
    st.none(),
)


def _is_own(number: int, result: AcquireResult) -> bool:
    """Return whether a result is not the honest one of another check."""
    remaining = result.statuses[0].remaining - FIRST_NUMBER
    return remaining == number or remaining not in range(10)


def _assert_valid(result: AcquireResult) -> None:
    (status,) = result.statuses
    _assert_count(
        result.store_now_us,
        status.remaining,
        status.retry_after_us,
        status.next_unit_after_us,
        status.reset_after_us,
    )
    assert (type(status.allowed), type(result.spent)) == (bool, bool)


def _assert_count(*numbers: int) -> None:
    for number in numbers:
        assert isinstance(number, int), numbers
        assert 0 <= number < 2**63, numbers


async def _calls(store: RedisStore) -> list[Any]:
    """Make calls of three scripts, in one pipeline where the connection is open."""
    refund = adjustment(charge(QUOTA), -1, STORE_NOW_US)
    results: Sequence[Any] = await asyncio.gather(
        acquire(store, 0),
        acquire(store, 1),
        store.heartbeat("replica", 1_000_000),
        store.adjust([refund]),
        return_exceptions=True,
    )
    return [*results]


async def _check(
    replies: Sequence[bytes | None], split_at: int, *, opened: bool, handshake: bool = False
) -> None:
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with hostile_store(split_at=split_at) as hostile:
        store = store_of(hostile, HANDSHAKE_TIMEOUTS if handshake else TIMEOUTS)
        if opened:
            with anyio.fail_after(PATIENCE_SECONDS):
                while not await _succeeds(store.open()):
                    pass
        hostile.replies.extend(replies)
        hostile.in_handshake = handshake
        with anyio.fail_after(PATIENCE_SECONDS):
            for _ in range(2):
                *acquired, heartbeat, adjusted = await _calls(store)
                for number, each in enumerate(acquired):
                    assert isinstance(each, AcquireResult | StoreError), repr(each)
                    if isinstance(each, AcquireResult):
                        _assert_valid(each)
                        assert _is_own(number, each)
                assert isinstance(heartbeat, HeartbeatReply | StoreError), repr(heartbeat)
                if isinstance(heartbeat, HeartbeatReply):
                    _assert_count(heartbeat.replicas)
                assert isinstance(adjusted, list | StoreError), repr(adjusted)
                if isinstance(adjusted, list):
                    _assert_count(*adjusted)
            # An honest store is used again, with each reply at its own check.
            hostile.replies.clear()
            while not await _succeeds(acquire(store, 5)):
                pass
            for each in await asyncio.gather(*(acquire(store, n) for n in range(5))):
                _assert_valid(each)
            await store.aclose()
    assert not unhandled


async def _succeeds(call: Any) -> bool:
    """Return whether a call has a result and no `StoreError`."""
    try:
        await call
    except StoreError:
        return False
    return True


_settings = partial(
    settings, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


@exact_cancellation
@_settings(max_examples=75)
@given(
    replies=st.lists(_replies, min_size=1, max_size=5),
    split_at=st.integers(0, 12),
    opened=st.booleans(),
)
# The first reply closes the connection over which the second one would load the script.
@example(replies=[b"-READONLY replica\r\n", b"-NOSCRIPT none\r\n"], split_at=0, opened=True)
@example(replies=[b"-ERR\r\n", b"-ERR\r\n", b",inf\r\n"], split_at=0, opened=True)
def test_any_replies_end_each_call(
    replies: list[bytes | None], split_at: int, *, opened: bool
) -> None:
    """Each call ends with its own result or a `StoreError`, and the connection is replaced."""
    asyncio.run(_check(replies, split_at, opened=opened))


@exact_cancellation
@_settings(max_examples=75)
@given(replies=st.lists(_almost_valid, min_size=1, max_size=3))
def test_almost_valid_replies_are_no_results(replies: list[bytes]) -> None:
    """A reply of the right length is a `StoreError` if one of its values is invalid."""
    asyncio.run(_check(replies, 0, opened=True))


@exact_cancellation
@_settings(max_examples=25)
@given(replies=st.lists(_replies, min_size=1, max_size=4), split_at=st.integers(0, 12))
def test_any_handshake_ends_each_call(replies: list[bytes | None], split_at: int) -> None:
    """So it is if the server sends such replies to the commands of the handshake."""
    asyncio.run(_check(replies, split_at, opened=False, handshake=True))

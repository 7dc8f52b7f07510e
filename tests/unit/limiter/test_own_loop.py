"""Event loop of a limiter, for calls from other threads."""

import asyncio
import os

import pytest

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.own_loop import OwnLoop
from support.limiter import Bench, rate_policy


async def test_running_loop_is_the_one_that_uses_the_limiter() -> None:
    """The loop is known from the first check on."""
    async with Bench(rate_policy("a", "2/minute")) as bench:
        assert bench.limiter.running_loop is None
        await bench.limiter.check("a", principal="ann")
        assert bench.limiter.running_loop is asyncio.get_running_loop()


def test_loop_that_has_ended_is_not_running() -> None:
    """After the end of its event loop a limiter runs nowhere."""
    own = OwnLoop()

    async def use() -> None:
        own.require()

    asyncio.run(use())
    assert own.running is None


async def test_running_loop_belongs_to_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a forked process the loop looks as if it ran, and no call would ever return."""
    own = OwnLoop()
    own.require()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(ConfigError, match="was forked after the limiter had started"):
        _ = own.running


async def test_thread_that_asks_while_a_loop_is_taken_over_sees_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must neither see the loop of another process, nor wait for one that has not started."""
    own_loop, seen = OwnLoop(), list[object]()
    get_pid = os.getpid

    def look_around() -> int:
        monkeypatch.setattr(os, "getpid", get_pid)
        # As another thread may between two steps of `require`.
        seen.append(own_loop.running)
        return get_pid()

    monkeypatch.setattr(os, "getpid", look_around)
    own_loop.require()
    assert seen == [None]
    assert own_loop.running is asyncio.get_running_loop()

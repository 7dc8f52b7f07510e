"""Coalescing of script calls: one command for all calls that one EVALSHA can run."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.stores.redis.scripts import (
    FIELDS_PER_CHARGE,
    Script,
    ScriptCall,
    coalesce,
    split_replies,
)
from fleetlimit.stores.redis.store import _encode_charges

TAKE, OTHER = Script("take", "text", "take", batchable=True), Script("settle", "text", "settle")
MINUTE = Quota(Algorithm.TOKEN_BUCKET, 10, 60_000_000, 12)


@pytest.fixture
async def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def call(
    loop: asyncio.AbstractEventLoop, *keys: str, script: Script = TAKE, now: int = 0
) -> ScriptCall:
    return ScriptCall(
        script,
        list(keys),
        [now, *(f"word-{key}" for key in keys)],
        loop.create_future(),
        decode=list,
    )


def anywhere(_key: str) -> int:
    return 0


def sent(calls: Sequence[ScriptCall], place: Any = anywhere) -> list[list[Any]]:
    return [command.args() for command in coalesce(calls, place)]


async def test_calls_of_a_batchable_script_share_a_command(loop: asyncio.AbstractEventLoop) -> None:
    """Keys and arguments are in the order of the calls, after the shared time."""
    assert sent([call(loop, "a"), call(loop, "b", "c")]) == [
        ["EVALSHA", "take", 3, "a", "b", "c", 0, "word-a", "word-b", "word-c"]
    ]


async def test_calls_are_coalesced_only_if_they_can_be(loop: asyncio.AbstractEventLoop) -> None:
    """Another script, another time or another slot needs its own command."""
    calls = [
        call(loop, "a"),
        call(loop, "b", script=OTHER),
        call(loop, "c", now=5),
        call(loop, "far"),
        call(loop, "d"),
    ]
    found = sent(calls, len)
    assert [each[3 : 3 + each[2]] for each in found] == [["a", "d"], ["b"], ["c"], ["far"]]


async def test_each_call_gets_its_part_of_the_reply(loop: asyncio.AbstractEventLoop) -> None:
    """The time is shared; an error belongs to one call."""
    calls = [call(loop, "a"), call(loop, "b", "c"), call(loop, "d")]
    bad = ValueError("bad")
    one, two = list(range(FIELDS_PER_CHARGE)), list(range(2 * FIELDS_PER_CHARGE))
    answer = [99, 1, *one, bad, *two, 0, *one]
    found = [answer for _, answer in split_replies(coalesce(calls, anywhere), [answer])]
    assert found == [[99, 1, *one], bad, [99, 0, *one]]


async def test_error_of_the_command_fails_every_call(loop: asyncio.AbstractEventLoop) -> None:
    """NOSCRIPT applies to every call of the command."""
    calls = [call(loop, "a"), call(loop, "b")]
    lost = ValueError("NOSCRIPT")
    assert [each for _, each in split_replies(coalesce(calls, anywhere), [lost])] == [lost, lost]


def test_encoded_charges_mark_the_begin_of_a_check() -> None:
    """The first charge says whether the check spends; further charges have a plus."""
    charges = [Charge("a", MINUTE, 2), Charge("b", MINUTE, 3, "lease", 1)]
    assert _encode_charges(charges, commit=True) == [
        b"1 token_bucket 10 60000000 12 2 0 ",
        b"+ token_bucket 10 60000000 12 3 1 lease",
    ]
    assert _encode_charges(charges[:1], commit=False) == [b"0 token_bucket 10 60000000 12 2 0 "]

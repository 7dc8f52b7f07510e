"""Calls that leave together are one command where one script call can decide them."""

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


async def test_calls_of_a_joined_script_are_one(loop: asyncio.AbstractEventLoop) -> None:
    """Keys and words stand in the order of the calls, behind the time that they share."""
    assert sent([call(loop, "a"), call(loop, "b", "c")]) == [
        ["EVALSHA", "take", 3, "a", "b", "c", 0, "word-a", "word-b", "word-c"]
    ]


async def test_what_cannot_be_decided_together_is_not(loop: asyncio.AbstractEventLoop) -> None:
    """Another script, another time and another slot are commands of their own."""
    calls = [
        call(loop, "a"),
        call(loop, "b", script=OTHER),
        call(loop, "c", now=5),
        call(loop, "far"),
        call(loop, "d"),
    ]
    found = sent(calls, len)
    assert [each[3 : 3 + each[2]] for each in found] == [["a", "d"], ["b"], ["c"], ["far"]]


async def test_each_call_hears_its_part(loop: asyncio.AbstractEventLoop) -> None:
    """The time is everybody's; an error is one call's alone."""
    calls = [call(loop, "a"), call(loop, "b", "c"), call(loop, "d")]
    bad = ValueError("bad")
    one, two = list(range(FIELDS_PER_CHARGE)), list(range(2 * FIELDS_PER_CHARGE))
    answer = [99, 1, *one, bad, *two, 0, *one]
    found = [answer for _, answer in split_replies(coalesce(calls, anywhere), [answer])]
    assert found == [[99, 1, *one], bad, [99, 0, *one]]


async def test_an_error_of_the_whole_is_everybodys(loop: asyncio.AbstractEventLoop) -> None:
    """A script that the server does not know decided nothing."""
    calls = [call(loop, "a"), call(loop, "b")]
    lost = ValueError("NOSCRIPT")
    assert [each for _, each in split_replies(coalesce(calls, anywhere), [lost])] == [lost, lost]


def test_words_say_where_a_check_begins() -> None:
    """The first charge says whether it is spent, the others that they belong to it."""
    charges = [Charge("a", MINUTE, 2), Charge("b", MINUTE, 3, "lease", 1)]
    assert _encode_charges(charges, commit=True) == [
        b"1 token_bucket 10 60000000 12 2 0 ",
        b"+ token_bucket 10 60000000 12 3 1 lease",
    ]
    assert _encode_charges(charges[:1], commit=False) == [b"0 token_bucket 10 60000000 12 2 0 "]

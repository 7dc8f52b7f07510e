"""Coalescing of script calls: one command for all calls that one EVALSHA can run."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.stores.redis.calendar_windows import CalendarWindows
from fleetlimit.stores.redis.charge_encoding import encode_charges
from fleetlimit.stores.redis.scripts import (
    FIELDS_PER_CHARGE,
    Script,
    ScriptCall,
    coalesce,
    load_script,
)

ACQUIRE = Script("acquire", "text", "acquire", batchable=True)
ADJUST = Script("adjust", "text", "adjust")
MINUTE = Quota(Algorithm.TOKEN_BUCKET, 10, 60_000_000, 12)


@pytest.fixture
async def loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def call(
    loop: asyncio.AbstractEventLoop, *keys: str, script: Script = ACQUIRE, now: int = 0
) -> ScriptCall:
    return ScriptCall(
        script,
        list(keys),
        [now, *(f"spec-{key}" for key in keys)],
        loop.create_future(),
        decode=list,
    )


def one_slot(_key: str) -> int:
    return 0


def sent(calls: Sequence[ScriptCall], slot_of: Any = one_slot) -> list[list[Any]]:
    return [list(command.args()) for command in coalesce(calls, slot_of)]


async def test_calls_of_a_batchable_script_share_a_command(loop: asyncio.AbstractEventLoop) -> None:
    """Keys and arguments are in the order of the calls, after the shared time."""
    assert sent([call(loop, "a"), call(loop, "b", "c")]) == [
        ["EVALSHA", "acquire", 3, "a", "b", "c", 0, "spec-a", "spec-b", "spec-c"]
    ]


async def test_calls_are_coalesced_only_if_they_can_be(loop: asyncio.AbstractEventLoop) -> None:
    """Another script, another time or another slot needs its own command."""
    calls = [
        call(loop, "a"),
        call(loop, "b", script=ADJUST),
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
    reply = [99, 1, *one, bad, *two, 0, *one]
    (command,) = coalesce(calls, one_slot)
    parts = [part for _, part in command.split(reply)]
    assert parts == [[99, 1, *one], bad, [99, 0, *one]]


async def test_error_of_the_command_fails_every_call(loop: asyncio.AbstractEventLoop) -> None:
    """NOSCRIPT applies to every call of the command."""
    calls = [call(loop, "a"), call(loop, "b")]
    lost = ValueError("NOSCRIPT")
    (command,) = coalesce(calls, one_slot)
    assert [each for _, each in command.split(lost)] == [lost, lost]


def test_encoded_charges_mark_the_begin_of_a_check() -> None:
    """The first charge says whether the check spends; further charges have a plus."""
    charges = [Charge("a", MINUTE, 2), Charge("b", MINUTE, 3, "lease", 1)]
    windows = CalendarWindows()
    assert encode_charges(charges, windows, dry_run=False) == (
        ["a", "b"],
        [b"1 token_bucket 10 60000000 12 2 0 ", b"+ token_bucket 10 60000000 12 3 1 lease"],
        False,
    )
    _, encoded, _ = encode_charges(charges[:1], windows, dry_run=True)
    assert encoded == [b"0 token_bucket 10 60000000 12 2 0 "]


def test_acquire_contains_the_fast_path_of_the_token_bucket_once() -> None:
    """The block of token_bucket.lua moves from the library to its place in acquire.lua."""
    text = load_script("acquire").text
    assert text.count("local retry_after = debt + cost - size") == 1
    assert text.index("local debt = tat > now") > text.index("local tat = is_fast")
    assert "whole_token_bucket\n" not in text

"""Statements for the audit travel beside the lane: they are large, and nobody waits for them."""

import asyncio
from typing import Any

from redis.exceptions import NoScriptError

from fleetlimit.limiter.ports import Posted
from fleetlimit.stores.connect import Client, Timeouts
from fleetlimit.stores.faults import translate
from fleetlimit.stores.scripts import script

AUDIT = script("audit")


async def post(client: Client, timeouts: Timeouts, keys: list[str], args: list[Any]) -> Posted:
    """Keep a statement, and return what all have stated if its maker is to compare them.

    Args:
        client: The driver's client.
        timeouts: How long to wait; a large answer may take as long as a connection.
        keys: KEYS of the script.
        args: ARGV of the script.

    Raises:
        StoreError: The store did not answer, or not with success.
    """
    call = (AUDIT.sha, len(keys), *keys, *args)
    try:
        async with asyncio.timeout(2 * timeouts.connect + timeouts.operation):
            try:
                reply: Any = await client.evalsha(*call)
            except NoScriptError:
                await client.script_load(AUDIT.text)
                reply = await client.evalsha(*call)
        now_us, word, *stated = reply
        pairs = zip(stated[::2], stated[1::2], strict=True)
        found = {name.decode(): _stated(text) for name, text in pairs}
        return Posted(int(now_us), word.decode(), found)
    except Exception as error:
        raise translate(error) from error


def _stated(text: bytes) -> tuple[int, str]:
    at_us, _, statement = text.decode().partition(":")
    return int(at_us), statement

"""Lua scripts, their calls, and the commands that carry one call or several coalesced calls."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from redis.exceptions import InvalidResponse

from fleetlimit.core.quota import Algorithm
from fleetlimit.stores.redis.calendar_windows import WIRE_NAME
from fleetlimit.stores.redis.errors import to_store_error

FIELDS_PER_CHARGE = 5
"""Numbers in the reply of a batchable script for each key."""


@dataclass(frozen=True, slots=True)
class Script:
    """Lua script with the SHA-1 for EVALSHA.

    Args:
        name: Name of the script.
        text: Lua source.
        sha: SHA-1 of the source.
        batchable: Whether one EVALSHA can run several calls. The calls share the first argument;
            each call has one further argument for each key. They share the first element of the
            reply; each call has one further element, an error if it failed, and
            `FIELDS_PER_CHARGE` for each key.
    """

    name: str
    text: str
    sha: str
    batchable: bool = False

    @property
    def span_attributes(self) -> dict[str, str]:
        """Attributes of a call's span (OpenTelemetry semantic conventions for Redis)."""
        return {
            "db.system.name": "redis",
            "db.operation.name": "EVALSHA",
            "db.stored_procedure.name": self.name,
        }


@dataclass(slots=True, eq=False)
class ScriptCall:
    """One call of a script.

    Args:
        script: The script.
        keys: KEYS.
        argv: ARGV.
        future: Future of the result.
        decode: Converts the script's raw reply to the result type.
        made_at_tick: Number of the batcher's timer tick at which the call was made.
    """

    script: Script
    keys: list[str]
    argv: list[Any]
    future: asyncio.Future[Any]
    decode: Callable[[Any], Any]
    made_at_tick: int = 0

    def args(self) -> tuple[Any, ...]:
        """Return the command of this call alone, with its arguments."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.argv)

    def split(self, reply: Any) -> Sequence[tuple["ScriptCall", Any]]:
        """Return this call with the reply to it alone; see `ScriptCommand`."""
        # Most replies are lists of integers, for which the types are the cheaper questions.
        if self.script.batchable and (type(reply) is list or not isinstance(reply, Exception)):
            _require_length(reply, 2 + FIELDS_PER_CHARGE * len(self.keys))
            if type(reply[1]) is not int and isinstance(reply[1], Exception):
                reply = reply[1]
        return ((self, reply),)

    def complete(self, reply: Any) -> None:
        """Set the result, unless the caller was cancelled.

        Raises:
            InvalidResponse: The reply is not one of this script.
        """
        if self.future.done():
            return
        try:
            result = self.decode(reply)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InvalidResponse(str(error)) from error
        else:
            self.future.set_result(result)

    def fail(self, error: Exception) -> None:
        """Set the error, unless the caller was cancelled or has its result."""
        if not self.future.done():
            self.future.set_exception(to_store_error(error))


class ScriptCommand(Protocol):
    """One EVALSHA: a single call, or several that share it."""

    def args(self) -> tuple[Any, ...]:
        """Return the command with its arguments."""
        ...

    def split(self, reply: Any) -> Sequence[tuple[ScriptCall, Any]]:
        """Return each call with its part of the reply, which is an error if the call failed.

        Raises:
            InvalidResponse: The reply is not one of this script for these calls.
        """
        ...


class CoalescedCalls:
    """One EVALSHA for several calls of a batchable script.

    Args:
        calls: The calls, in the order in which the script runs them.
    """

    __slots__ = ("_calls",)

    def __init__(self, calls: list[ScriptCall]) -> None:
        self._calls = calls

    def args(self) -> tuple[Any, ...]:
        """Return the command with its arguments."""
        first = self._calls[0]
        keys = [key for call in self._calls for key in call.keys]
        args = [arg for call in self._calls for arg in call.argv[1:]]
        return ("EVALSHA", first.script.sha, len(keys), *keys, first.argv[0], *args)

    def split(self, reply: Any) -> list[tuple[ScriptCall, Any]]:
        """Return each call with its part of the reply; see `ScriptCommand`."""
        if isinstance(reply, Exception):
            return [(call, reply) for call in self._calls]
        keys = sum(len(each.keys) for each in self._calls)
        _require_length(reply, 1 + len(self._calls) + FIELDS_PER_CHARGE * keys)
        parts, at = [], 1
        for call in self._calls:
            end = at + 1 + FIELDS_PER_CHARGE * len(call.keys)
            failed = isinstance(reply[at], Exception)
            parts.append((call, reply[at] if failed else [reply[0], *reply[at:end]]))
            at = end
        return parts


def _require_length(reply: Any, length: int) -> None:
    if not isinstance(reply, list) or len(reply) != length:
        raise InvalidResponse(f"{reply!r:.100} is not a list of {length} elements")


def coalesce(
    calls: Sequence[ScriptCall], slot_of: Callable[[str], int] | None
) -> list[ScriptCommand]:
    """Return the commands for the calls of a pipeline, one command for all that can share one.

    Args:
        calls: The calls.
        slot_of: Maps a key to its Cluster slot, because a script sees one slot only; None without
            a Cluster.
    """
    if len(calls) == 1:
        return [*calls]
    groups: list[list[ScriptCall]] = []
    coalesced: dict[tuple[str, Any, int], list[ScriptCall]] = {}
    for call in calls:
        if not call.script.batchable:
            groups.append([call])
            continue
        shared = (call.script.sha, call.argv[0], slot_of(call.keys[0]) if slot_of else 0)
        group = coalesced.get(shared)
        if group is None:
            coalesced[shared] = group = []
            groups.append(group)
        group.append(call)
    return [group[0] if len(group) == 1 else CoalescedCalls(group) for group in groups]


_FOLDER = files("fleetlimit.stores.redis") / "lua"
_BLOCK = re.compile(r"^-- begin (\w+)\n(.*?)^-- end \1\n", re.MULTILINE | re.DOTALL)
_INSERT = re.compile(r"^ *-- insert (\w+)\n", re.MULTILINE)


@cache
def load_script(name: str, *, batchable: bool = False) -> Script:
    """Return a script, assembled from its file, the clock and the library of algorithms.

    A block of the library (`-- begin x` to `-- end x`) moves to the script's line `-- insert x`.

    Args:
        name: Name of the script's file.
        batchable: See `Script`.
    """
    library = _read("library", *Algorithm, WIRE_NAME)
    blocks = dict(_BLOCK.findall(library))
    script = _INSERT.sub(lambda line: blocks[line[1]], _read(name))
    library = _BLOCK.sub("", library)
    parts = [_read("clock"), "local function library()", library, "return lib", "end", script]
    text = "\n".join(parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, batchable=batchable)


def _read(*names: str) -> str:
    return "\n".join((_FOLDER / f"{name}.lua").read_text("utf-8") for name in names)

"""Calls of scripts, and the commands that they travel in: one each, or one for several."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fleetlimit.core.quota import Algorithm
from fleetlimit.stores.redis.errors import to_store_error

FIELDS_PER_CHARGE = 5
"""Numbers that a joined script answers for each key."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its SHA-1, by which the server knows it.

    Args:
        name: Its name.
        text: Lua.
        sha: Its SHA-1.
        batchable: Whether it decides several calls in one. They share the first argument, and each
            has one more for each of its keys. They share the first element of the answer, and each
            has one more, which is an error where it failed, and `FIGURES` for each of its keys.
    """

    name: str
    text: str
    sha: str
    batchable: bool = False

    @property
    def span_attributes(self) -> dict[str, str]:
        """Attributes of a call's span (OpenTelemetry's semantic conventions for Redis)."""
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
        keys: Its keys.
        args: Its arguments.
        future: The future of the result.
        decode: Converts the script's reply to the result.
    """

    script: Script
    keys: list[str]
    args: list[Any]
    future: asyncio.Future[Any]
    decode: Callable[[Any], Any]

    def complete(self, reply: Any) -> None:
        """Set the result, unless the caller was cancelled."""
        if self.future.done():
            return
        try:
            found = self.decode(reply)
        except (TypeError, ValueError, AttributeError) as error:
            self.fail(error)
        else:
            self.future.set_result(found)

    def fail(self, error: Exception) -> None:
        """Set the error, unless the caller was cancelled or has its result."""
        if not self.future.done():
            self.future.set_exception(to_store_error(error))


class ScriptCommand:
    """What is sent to the server for one call, or for several that are joined.

    Args:
        calls: The calls, in the order in which they are decided.
    """

    __slots__ = ("_calls",)

    def __init__(self, calls: list[ScriptCall]) -> None:
        self._calls = calls

    def args(self) -> list[Any]:
        """Return the command's words."""
        first = self._calls[0]
        if len(self._calls) == 1:
            return ["EVALSHA", first.script.sha, len(first.keys), *first.keys, *first.args]
        keys = [key for call in self._calls for key in call.keys]
        args = [word for call in self._calls for word in call.args[1:]]
        return ["EVALSHA", first.script.sha, len(keys), *keys, first.args[0], *args]

    def split(self, reply: Any) -> list[tuple[ScriptCall, Any]]:
        """Return each call with its part of the answer."""
        if not isinstance(reply, list) or not self._calls[0].script.batchable:
            return [(call, reply) for call in self._calls]
        found, at = [], 1
        for call in self._calls:
            end = at + 1 + FIELDS_PER_CHARGE * len(call.keys)
            failed = isinstance(reply[at], Exception)
            found.append((call, reply[at] if failed else [reply[0], *reply[at:end]]))
            at = end
        return found


def coalesce(
    calls: Iterable[ScriptCall], slot_of: Callable[[str], int] | None
) -> list[ScriptCommand]:
    """Put together what can be one command.

    Args:
        calls: Calls that leave together.
        slot_of: Maps a key to its Cluster slot, which is all that a script can see; None without a
            Cluster.
    """
    commands: list[ScriptCommand] = []
    joined: dict[tuple[str, Any, int], list[ScriptCall]] = {}
    for call in calls:
        if not call.script.batchable:
            commands.append(ScriptCommand([call]))
            continue
        like = (call.script.sha, call.args[0], slot_of(call.keys[0]) if slot_of else 0)
        others = joined.get(like)
        if others is None:
            joined[like] = others = []
            commands.append(ScriptCommand(others))
        others.append(call)
    return commands


def split_replies(
    commands: Iterable[ScriptCommand], replies: Iterable[Any]
) -> list[tuple[ScriptCall, Any]]:
    """Return the calls of commands, each with its part of their answers."""
    found: list[tuple[ScriptCall, Any]] = []
    for command, answer in zip(commands, replies, strict=True):
        found += command.split(answer)
    return found


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
    library = _read("library", *Algorithm)
    blocks = dict(_BLOCK.findall(library))
    script = _INSERT.sub(lambda found: blocks[found[1]], _read(name))
    library = _BLOCK.sub("", library)
    parts = [_read("clock"), "local function library()", library, "return lib", "end", script]
    text = "\n".join(parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, batchable=batchable)


def _read(*names: str) -> str:
    return "\n".join((_FOLDER / f"{name}.lua").read_text("utf-8") for name in names)

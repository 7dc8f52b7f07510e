"""Calls of scripts, and the commands that they travel in: one each, or one for several."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from fleetlimit.core.quota import Algorithm
from fleetlimit.stores.redis.errors import translate

FIGURES = 5
"""Numbers that a joined script answers for each key."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script and its SHA-1, by which the server knows it.

    Args:
        name: Its name.
        text: Lua.
        sha: Its SHA-1.
        joined: Whether it decides several calls at a time. They share the first argument, and each
            has one more for each of its keys. They share the first element of the answer, and each
            has one more, which is an error where it failed, and `FIGURES` for each of its keys.
    """

    name: str
    text: str
    sha: str
    joined: bool = False

    @property
    def span_attributes(self) -> dict[str, str]:
        """Attributes of a call's span (OpenTelemetry's semantic conventions for Redis)."""
        return {
            "db.system.name": "redis",
            "db.operation.name": "EVALSHA",
            "db.stored_procedure.name": self.name,
        }


@dataclass(slots=True, eq=False)
class Call:
    """One call of a script.

    Args:
        script: The script.
        keys: Its keys.
        args: Its arguments.
        answer: The future of the result.
        read: Converts the script's reply to the result.
    """

    script: Script
    keys: list[str]
    args: list[Any]
    answer: asyncio.Future[Any]
    read: Callable[[Any], Any]

    def hear(self, answer: Any) -> None:
        """Set the result, unless the caller was cancelled."""
        if self.answer.done():
            return
        try:
            found = self.read(answer)
        except (TypeError, ValueError, AttributeError) as error:
            self.fail(error)
        else:
            self.answer.set_result(found)

    def fail(self, error: Exception) -> None:
        """Set the error, unless the caller was cancelled or has its result."""
        if not self.answer.done():
            self.answer.set_exception(translate(error))


class Command:
    """What is sent to the server for one call, or for several that are joined.

    Args:
        calls: The calls, in the order in which they are decided.
    """

    __slots__ = ("_calls",)

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls

    def words(self) -> list[Any]:
        """Return the command's words."""
        first = self._calls[0]
        if len(self._calls) == 1:
            return ["EVALSHA", first.script.sha, len(first.keys), *first.keys, *first.args]
        keys = [key for call in self._calls for key in call.keys]
        args = [word for call in self._calls for word in call.args[1:]]
        return ["EVALSHA", first.script.sha, len(keys), *keys, first.args[0], *args]

    def answers(self, answer: Any) -> list[tuple[Call, Any]]:
        """Return each call with its part of the answer."""
        if not isinstance(answer, list) or not self._calls[0].script.joined:
            return [(call, answer) for call in self._calls]
        found, at = [], 1
        for call in self._calls:
            end = at + 1 + FIGURES * len(call.keys)
            failed = isinstance(answer[at], Exception)
            found.append((call, answer[at] if failed else [answer[0], *answer[at:end]]))
            at = end
        return found


def join(calls: Iterable[Call], place: Callable[[str], int] | None) -> list[Command]:
    """Put together what can be one command.

    Args:
        calls: Calls that leave together.
        place: Tells of a key in which Cluster slot it is, where there are any: a script cannot see
            two.
    """
    commands: list[Command] = []
    joined: dict[tuple[str, Any, int], list[Call]] = {}
    for call in calls:
        if not call.script.joined:
            commands.append(Command([call]))
            continue
        like = (call.script.sha, call.args[0], place(call.keys[0]) if place else 0)
        others = joined.get(like)
        if others is None:
            joined[like] = others = []
            commands.append(Command(others))
        others.append(call)
    return commands


def parts(commands: Iterable[Command], answers: Iterable[Any]) -> list[tuple[Call, Any]]:
    """Return the calls of commands, each with its part of their answers."""
    found: list[tuple[Call, Any]] = []
    for command, answer in zip(commands, answers, strict=True):
        found += command.answers(answer)
    return found


_FOLDER = files("fleetlimit.stores.redis") / "lua"


@cache
def script(name: str, *, joined: bool = False) -> Script:
    """Return the script of this name, with the clock and the library before it.

    Args:
        name: Name of its file.
        joined: Whether calls of it that leave together are one.
    """
    library = _read("library", *Algorithm)
    parts = [_read("clock"), "local function library()", library, "return lib", "end", _read(name)]
    text = "\n".join(parts)
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(name, text, sha, joined=joined)


def _read(*names: str) -> str:
    return "\n".join((_FOLDER / f"{name}.lua").read_text("utf-8") for name in names)

"""YAML read into plain data, with the line of every value.

Of YAML 1.2 this is the part that a settings file needs: mappings with text keys, lists, text, whole
numbers, `true`, `false` and empty. `off`, `no` and `1:30` are text here, as YAML 1.2 has it and as
the editors that read the JSON Schema do.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from headgate.core.errors import PolicyError
from headgate.policies.errors import PolicyErrors

MAX_BYTES = 2**20
"""Largest document; also the largest ConfigMap."""
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""Most values, each alias counted as all that it stands for."""

Place = tuple[int | str, ...]

# The C parser reads a megabyte in tens of milliseconds, the Python one in tens of seconds.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}", re.ASCII)
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(slots=True)
class Located:
    """Plain data and where in a text it stands.

    Args:
        source: Name of the text, for messages.
        data: What the text says.
        lines: Line of each value, from 1, by its path of keys and indices.
        errors: Faults that leave the data readable.
    """

    source: str
    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    errors: list[PolicyError] = field(default_factory=list)

    def error(self, message: str, place: Place = ()) -> PolicyError:
        """Return an error at the value, or at the nearest one around it that has a line."""
        while place and place not in self.lines:
            place = place[:-1]
        return PolicyError(message, source=self.source, line=self.lines.get(place, 0))


def decode(raw: bytes, source: str) -> str:
    """Return the text of a file.

    Raises:
        PolicyErrors: It is too large or not UTF-8.
    """
    if len(raw) > MAX_BYTES:
        raise _refused(source, 0, f"the file is above {MAX_BYTES:,} bytes: write fewer policies")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise _refused(source, line, "this is not UTF-8 text: save the file as UTF-8") from error


def read(text: str, source: str) -> Located:
    """Read a YAML document.

    Raises:
        PolicyErrors: It is not one document of the YAML described above.
    """
    return _Reader(source, text).document()


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 0


def _refused(source: str, line: int, message: str) -> PolicyErrors:
    return PolicyErrors([PolicyError(message, source=source, line=line)])


class _Reader:
    """Builds values from parser events, so that nothing grows before it is counted."""

    def __init__(self, source: str, text: str) -> None:
        self._found = Located(source)
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0

    def document(self) -> Located:
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            raise self._fault(event, "the file is empty: write `version: 1` and `policies:`")
        self._found.data = self._value(self._next(), ())
        self._next()
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            raise self._fault(event, "a second document starts here: put all in one")
        return self._found

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            line = _line(error.problem_mark)
            what = " ".join(part for part in (error.problem, error.context) if part)
            raise _refused(self._found.source, line, f"this is not YAML: {what}") from error
        # The Python parser lets out what escapes and directives out of range raise.
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            what = " ".join(str(error).split())
            raise _refused(self._found.source, 0, f"this is not YAML: {what}") from error

    def _fault(self, event: Any, message: str) -> PolicyErrors:
        return _refused(self._found.source, _line(event.start_mark), message)

    def _value(self, event: Any, place: Place) -> Any:
        self._found.lines.setdefault(place, _line(event.start_mark))
        before = self._values
        self._values += 1
        if isinstance(event, yaml.AliasEvent):
            value = self._alias(event)
        else:
            value = self._fresh(event, place)
            if event.anchor:
                self._anchors[event.anchor] = (value, self._values - before)
        if self._values > MAX_VALUES:
            raise self._fault(event, f"the file holds more than {MAX_VALUES:,} values")
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self._fault(event, f"*{event.anchor} stands before &{event.anchor} is complete")
        value, count = self._anchors[event.anchor]
        self._values += count
        return value

    def _fresh(self, event: Any, place: Place) -> Any:
        if event.tag is not None:
            raise self._fault(event, f"tags are not read: leave out {event.tag}")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if len(place) >= MAX_DEPTH:
            raise self._fault(event, f"values are nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            return [
                self._value(item, (*place, index))
                for index, item in enumerate(self._until(yaml.SequenceEndEvent))
            ]
        return self._mapping(place)

    def _mapping(self, place: Place) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._fault(event, "a key must be text")
            key, inner = event.value, (*place, event.value)
            if key in found:
                double = f"`{key}` is written twice, first in line {self._found.lines[inner]}"
                self._found.errors += self._fault(event, f"{double}: keep one").errors
            self._found.lines.setdefault(inner, _line(event.start_mark))
            found[key] = self._value(self._next(), inner)
        return found

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := self._next(), end):
            yield event


def _scalar(text: str) -> Any:
    """Resolve a plain scalar; a number too long to mean one stays text."""
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _WHOLE.fullmatch(text) else text

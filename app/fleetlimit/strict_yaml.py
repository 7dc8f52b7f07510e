"""Strict YAML reader: plain data, with the line of every value.

It reads a subset of YAML 1.2: mappings with text keys, lists, text, whole numbers, `true`, `false`
and empty values. `off`, `no`, `1:30` and `0123` are text, because their meaning differs between
YAML versions. JSON is valid YAML. Error messages never quote the text, which may contain a secret
by mistake.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fleetlimit.errors import ConfigError, DocumentError

MAX_BYTES = 2**20
"""Default maximum file size in bytes; also the maximum of a ConfigMap."""
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""Most values, with every alias counted as the values that it expands to. A large file has a higher
bound, by its size."""
_BYTES_PER_VALUE = 10
"""Lower bound of a real file's bytes per value, for the bound by size."""

_TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep"
NodePath = tuple[int | str, ...]

# The C parser takes tens of milliseconds for a megabyte, the Python parser tens of seconds.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Only numbers that convert back to the same text, because a name may look like a number.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
_LITERALS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class DocumentErrors(ConfigError):
    """All errors of a file.

    Args:
        errors: The errors; sorted by line.
    """

    def __init__(self, errors: Iterable[DocumentError]) -> None:
        self.errors = tuple(sorted(errors, key=lambda error: error.line))
        super().__init__("\n".join(str(error) for error in self.errors))


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data of a YAML document, with line numbers.

    Args:
        source: Name of the text, for messages.
        data: The data; an empty mapping for an empty document.
        lines: Line of each value, from 1, by its path of keys and indices.
        errors: Errors that leave the data readable.
    """

    source: str
    data: Any
    lines: Mapping[NodePath, int]
    errors: Sequence[DocumentError]

    def error(self, message: str, path: NodePath = ()) -> DocumentError:
        """Return an error with the line of a value, or of the nearest enclosing value."""
        while path and path not in self.lines:
            path = path[:-1]
        return DocumentError(message, source=self.source, line=self.lines[path])


def read(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a file.

    Raises:
        DocumentErrors: The file cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        what = f"the file cannot be read ({error.strerror}): correct its path or permissions"
        raise _fatal_error(str(path), 0, what) from None
    if len(raw) > max_bytes:
        raise _fatal_error(
            str(path), 0, f"the file is above {max_bytes:,} bytes: write fewer entries"
        )
    return raw


def parse(raw: bytes, source: str) -> Document:
    """Parse the bytes of a file.

    Raises:
        DocumentErrors: The text is not one document of the supported YAML subset.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = "this is not UTF-8 text: save the file as UTF-8"
        raise _fatal_error(source, line, message) from None
    return _Composer(source, text, max(MAX_VALUES, len(raw) // _BYTES_PER_VALUE)).document()


def _fatal_error(source: str, line: int, message: str) -> DocumentErrors:
    return DocumentErrors([DocumentError(message, source=source, line=line)])


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 0


class _Composer:
    """Builds values from parser events, and checks depth and number of values while it does.

    PyYAML's own composer recurses in C without a bound: enough opening brackets crash the process.
    """

    def __init__(self, source: str, text: str, max_values: int) -> None:
        self._source = source
        self._max_values = max_values
        self._events: Iterator[Any] = yaml.parse(text, Loader=_Loader)
        self._lines: dict[NodePath, int] = {}
        self._errors: list[DocumentError] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._value_count = 0

    def document(self) -> Document:
        self._next()
        event = self._next()
        if isinstance(event, yaml.StreamEndEvent):
            return Document(self._source, {}, {(): _line(event.start_mark)}, ())
        data = self._value(self._next(), ())
        self._next()
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            raise self._error_at(event, "a second document starts here: put all in one")
        return Document(self._source, data, self._lines, self._errors)

    def _next(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            line = _line(error.problem_mark)
            # The Python parser quotes the start of a tag, which may be part of a secret.
            problem = (error.problem or "").partition(" handle ")[0]
            if "nesting depth" in problem:
                # The C parser of PyYAML 6.0.4 has a bound too, and reads ahead of the events.
                raise _fatal_error(self._source, line, _TOO_DEEP) from None
            what = " ".join(part for part in (problem, error.context) if part)
        # The Python parser raises these for escapes and directives out of range.
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            line, what = 0, " ".join(str(error).split())
        raise _fatal_error(self._source, line, f"this is not YAML: {what}")

    def _error_at(self, event: Any, message: str) -> DocumentErrors:
        return _fatal_error(self._source, _line(event.start_mark), message)

    def _value(self, event: Any, path: NodePath) -> Any:
        self._lines.setdefault(path, _line(event.start_mark))
        before = self._value_count
        self._value_count += 1
        if isinstance(event, yaml.AliasEvent):
            value = self._alias(event)
        else:
            value = self._new_node(event, path)
            if event.anchor:
                self._anchors[event.anchor] = (value, self._value_count - before)
        if self._value_count > self._max_values:
            raise self._error_at(event, f"the file has more than {self._max_values:,} values")
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self._error_at(
                event,
                "this alias is used before its anchor is complete: write the value, in quotes if "
                "it starts with *",
            )
        value, count = self._anchors[event.anchor]
        self._value_count += count
        return value

    def _new_node(self, event: Any, path: NodePath) -> Any:
        if event.tag is not None:
            message = "tags are not supported: remove it, or quote a value that starts with !"
            raise self._error_at(event, message)
        if isinstance(event, yaml.ScalarEvent):
            return _resolve_scalar(event.value) if event.implicit[0] else event.value
        if len(path) >= MAX_DEPTH:
            raise self._error_at(event, _TOO_DEEP)
        if isinstance(event, yaml.SequenceStartEvent):
            return [
                self._value(item, (*path, index))
                for index, item in enumerate(self._until(yaml.SequenceEndEvent))
            ]
        return self._mapping(path)

    def _mapping(self, path: NodePath) -> Mapping[str, Any]:
        mapping: dict[str, Any] = {}
        for event in self._until(yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self._error_at(event, "a key must be text")
            inner = (*path, event.value)
            if event.value in mapping:
                message = f"this key occurs twice, first in line {self._lines[inner]}: keep one"
                self._errors += self._error_at(event, message).errors
            self._lines.setdefault(inner, _line(event.start_mark))
            mapping[event.value] = self._value(self._next(), inner)
        return mapping

    def _until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := self._next(), end):
            yield event


def _resolve_scalar(text: str) -> Any:
    """Return the value of a plain scalar; a number with too many digits stays text."""
    if text in _LITERALS:
        return _LITERALS[text]
    return int(text) if _INTEGER.fullmatch(text) else text

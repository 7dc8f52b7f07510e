"""Reads a YAML or JSON file as plain data, and knows the line of each value of a YAML file.

Every YAML scalar but an empty one, `~` and `null` is text: what is written is what is meant, be it
`0123` or `no`. Messages never quote the file, which can hold a key by mistake.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from headgate.core.errors import ConfigError

Location = tuple[str | int, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C, where PyYAML has it: ten times faster on a file of many keys."""
_NULLS = {"", "~", "null", "Null", "NULL"}
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class Document:
    """A file's data, and where in the file each part of it starts."""

    path: Path
    data: Any
    lines: dict[Location, int] = field(default_factory=dict)

    def place(self, location: Location) -> str:
        """Return `file:line` of a part, or of what is nearest around it."""
        for end in range(len(location), -1, -1):
            if line := self.lines.get(location[:end]):
                return f"{self.path}:{line}"
        return str(self.path)


def read_document(path: Path) -> Document:
    """Read the file; JSON when its name ends in `.json`, else YAML.

    Raises:
        ConfigError: The file cannot be read or parsed, or says one thing twice.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): correct the path or its permissions"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text: save it as UTF-8") from None
    return _json(path, text) if path.suffix == ".json" else _yaml(path, text)


def _json(path: Path, text: str) -> Document:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ConfigError(f"{path}: an object has one name twice: remove one of them")
        return dict(pairs)

    try:
        return Document(path, json.loads(text, object_pairs_hook=unique))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{error.lineno}: not JSON from here on") from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply") from None


def _yaml(path: Path, text: str) -> Document:
    reader = _YamlReader(path, yaml.parse(text, _LOADER))
    try:
        return Document(path, reader.document(), reader.lines)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(
            f"{path}:{_line(error.problem_mark)}: not YAML from here on: check the indentation, "
            "and put values with special characters in quotes"
        ) from None
    except yaml.YAMLError:
        raise ConfigError(f"{path} has characters that YAML forbids: remove them") from None


class _YamlReader:
    """Takes YAML events to plain data, noting the line of each part.

    PyYAML's own composer recurses in C without a bound: a file that opens enough brackets ends the
    process.
    """

    def __init__(self, path: Path, events: Iterator[yaml.Event]) -> None:
        self.lines: dict[Location, int] = {}
        self._path = path
        self._events = events

    def document(self) -> Any:
        data = None
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(event, "a second document: keep one")
                data = self._value(next(self._events), ())
        return data

    def _value(self, event: yaml.Event, location: Location) -> Any:
        if len(location) > _MAX_DEPTH:
            raise self._error(event, "nested too deeply")
        self.lines.setdefault(location, _line(event.start_mark))
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                items.append(self._value(item, (*location, len(items))))
            return items
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(location)
        return self._scalar(event)

    def _mapping(self, location: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._scalar(event) or ""
            if name in mapping:
                raise self._error(event, "this name stands twice: remove one of them")
            self.lines[*location, name] = _line(event.start_mark)
            mapping[name] = self._value(next(self._events), (*location, name))
        return mapping

    def _scalar(self, event: yaml.Event) -> str | None:
        if not isinstance(event, yaml.ScalarEvent):
            raise self._error(event, "plain text must stand here, and no alias: write it out")
        plain = event.implicit[0]
        return None if plain and event.value in _NULLS else str(event.value)

    def _error(self, event: yaml.Event, message: str) -> ConfigError:
        return ConfigError(f"{self._path}:{_line(event.start_mark)}: {message}")


def _line(mark: Any) -> int:
    """Return the line of a place in the text, counted from 1; PyYAML's two loaders mark alike."""
    return int(mark.line) + 1

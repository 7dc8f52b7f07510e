"""Translation of a file or a directory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fleetlimit.errors import ConfigError
from fleetlimit.migrate.fastapi_limiter import FastapiLimiterTranslator
from fleetlimit.migrate.imports import OLD_PACKAGES, correct_imports
from fleetlimit.migrate.result import ChangedFile, Migration
from fleetlimit.migrate.slowapi import SlowapiTranslator
from fleetlimit.migrate.source import Source, SourceError

MAX_FILES: Final = 20_000
_SKIPPED: Final = frozenset(
    {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}
)
"""Directories without code of the app; those with a dot in front are skipped, too."""


def translate(path: Path, *, policies: str = "policies.yaml", algorithm: str = "") -> Migration:
    """Translate the limits in a file, or in all Python files below a directory.

    The code is read, and never imported or run. Nothing is written.

    Args:
        path: File or directory.
        policies: Path of the policy file, as the code names it.
        algorithm: Algorithm of the limits whose limiter names no strategy; empty for the default.

    Raises:
        ConfigError: There is no such path, or there are too many files below it.
    """
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file or directory")
    migration = Migration()
    sources = []
    for file in _files(path):
        migration.files += 1
        if migration.files > MAX_FILES:
            raise ConfigError(f"{path} has more than {MAX_FILES:,} Python files: name a part of it")
        try:
            source = _read(file)
        except SourceError as error:
            migration.unread.append((file, str(error)))
            continue
        if source is not None:
            sources.append(source)
    slowapi = SlowapiTranslator(sources, migration, policies, algorithm)
    slowapi.translate()
    FastapiLimiterTranslator(sources, migration, algorithm).translate()
    for source in sources:
        _finish(source, migration, slowapi.limiter_names)
    return migration


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    # Links are not followed: one may lead to a directory around it.
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            each for each in folders if each not in _SKIPPED and not each.startswith(".")
        )
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def _read(file: Path) -> Source | None:
    """Return a file of the app; None for one that cannot use a limiter or its routers.

    Raises:
        SourceError: The file cannot be read, or is not Python.
    """
    try:
        raw = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from None
    words = (*OLD_PACKAGES, "limiter", "APIRouter", "include_router")
    if not any(word.encode() in raw for word in words):
        return None
    try:
        return Source.read(file)
    except SourceError:
        if any(word.encode() in raw for word in OLD_PACKAGES):
            raise
        return None


def _finish(source: Source, migration: Migration, limiters: frozenset[str]) -> None:
    """Add the edited text of a file, with its imports."""
    if not source.edits and not _uses_old(source):
        return
    try:
        text, notes = correct_imports(source, source.edited(), limiters)
        Source.parse(source.path, text)
    except SourceError as error:
        # The file is unchanged then.
        migration.unread.append((source.path, f"its edits are wrong, and left out: {error}"))
        return
    migration.by_hand += notes
    if text != source.text:
        before, after = (each.replace("\n", source.line_end) for each in (source.text, text))
        migration.changed.append(ChangedFile(source.path, before, after))


def _uses_old(source: Source) -> bool:
    return any(name.partition(".")[0] in OLD_PACKAGES for name in source.names.values())

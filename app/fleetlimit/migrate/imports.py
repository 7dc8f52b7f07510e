"""Imports of an edited file: the old package's out, and those of Fleetlimit in."""

import ast
from collections.abc import Iterator
from typing import Final

from fleetlimit.migrate.source import Note, Source

OLD_PACKAGES: Final = frozenset({"slowapi", "fastapi_limiter", "pyrate_limiter"})
_NEW_NAMES: Final = frozenset(
    {"ConcurrencyLimit", "Fleetlimit", "PolicyLimit", "RateLimit", "RateLimitMiddleware"}
)
_SAME_NAMES: Final = {"slowapi.errors.RateLimitExceeded": "RateLimitExceeded"}
"""Names of the old packages that Fleetlimit has, too."""


def correct_imports(source: Source, text: str, droppable: frozenset[str]) -> tuple[str, list[Note]]:
    """Return a text with the imports that it needs.

    Args:
        source: The file before all edits, for the line numbers of notes.
        text: Its text after the edits of its limits.
        droppable: Names of limiters, whose imports are removed where they are no longer used.

    Returns:
        The text, and a note for each use of the old package that is left in it.

    Raises:
        SourceError: The text is not Python, which would be a fault of an edit.
    """
    edited = Source.parse(source.path, text)
    used = set(_used_names(edited.tree))
    # The connection that only the limiter had.
    droppable |= {
        name
        for name in {*_used_names(source.tree)} - used
        if source.names.get(name, "").partition(".")[0] == "redis"
    }
    needed = sorted((used & _NEW_NAMES) - edited.names.keys() - _defined(edited.tree))
    place = None
    for statement in edited.tree.body:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            continue
        kept, moved = _sorted_out(edited, statement, used, droppable)
        needed += moved
        if kept is None:
            place = statement if place is None and _is_old(statement) else place
            if place is not statement:
                edited.delete_statement(statement)
        elif kept != ast.unparse(statement):
            edited.replace(statement, kept)
    new = [f"from fleetlimit import {', '.join(sorted({*needed}))}"] if needed else []
    if "Depends" in used and "Depends" not in edited.names and not _extend_fastapi(edited):
        new.insert(0, "from fastapi import Depends")
    _insert(edited, place, new)
    return edited.edited(), [*_leftovers(source, edited, needed)]


def _used_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id


def _defined(tree: ast.Module) -> set[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {each.name for each in ast.walk(tree) if isinstance(each, kinds)}


def _is_old(statement: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return (statement.module or "").partition(".")[0] in OLD_PACKAGES and not statement.level
    return any(each.name.partition(".")[0] in OLD_PACKAGES for each in statement.names)


def _sorted_out(
    source: Source,
    statement: ast.Import | ast.ImportFrom,
    used: set[str],
    droppable: frozenset[str],
) -> tuple[str | None, list[str]]:
    """Return the statement without the names that are no longer used, and the names to move.

    The statement is None if nothing of it is left.
    """
    kept: list[ast.alias] = []
    moved: list[str] = []
    for alias in statement.names:
        local = alias.asname or alias.name.partition(".")[0]
        full = source.names.get(local, alias.name)
        is_old = full.partition(".")[0] in OLD_PACKAGES
        if local in used and full in _SAME_NAMES:
            same = _SAME_NAMES[full]
            moved.append(same if local == same else f"{same} as {local}")
        elif local in used or alias.name == "*" or not (is_old or local in droppable):
            kept.append(alias)
    if not kept:
        return None, moved
    if len(kept) == len(statement.names):
        return ast.unparse(statement), moved
    if isinstance(statement, ast.Import):
        return ast.unparse(ast.Import(kept)), moved
    return ast.unparse(ast.ImportFrom(statement.module, kept, statement.level)), moved


def _extend_fastapi(source: Source) -> bool:
    """Add `Depends` to an import of FastAPI on one line; return whether there is one."""
    for node in source.tree.body:
        if not isinstance(node, ast.ImportFrom) or node.module != "fastapi" or node.level:
            continue
        if node.lineno == node.end_lineno and not any(each.asname for each in node.names):
            names = sorted({"Depends", *(each.name for each in node.names)})
            source.replace(node, f"from fastapi import {', '.join(names)}")
            return True
    return False


def _insert(source: Source, place: ast.stmt | None, new: list[str]) -> None:
    """Insert lines in place of a statement, or after the last import without one."""
    if place is not None:
        if new:
            source.replace(place, "\n".join(new))
        else:
            source.delete_statement(place)
        return
    imports = [each for each in source.tree.body if isinstance(each, ast.Import | ast.ImportFrom)]
    line = (imports[-1].end_lineno or 0) + 1 if imports else 1
    source.insert(source.line_start(line), "".join(f"{each}\n" for each in new))


def _leftovers(source: Source, edited: Source, moved: list[str]) -> Iterator[Note]:
    """Yield a note for each use of an old package in the edited text."""
    names = {each.rpartition(" as ")[2] for each in moved}
    left = {
        name: full
        for name, full in edited.names.items()
        if full.partition(".")[0] in OLD_PACKAGES and name not in names
    }
    used = {node.id for node in ast.walk(edited.tree) if isinstance(node, ast.Name)} & left.keys()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id in used and isinstance(node.ctx, ast.Load):
            if source.is_edited(node):
                continue
            yield source.note(
                node, f"{left[node.id]} has no counterpart here: {_fix(left[node.id])}"
            )
        elif isinstance(node, ast.Import | ast.ImportFrom) and _is_old(node):
            if any(each.name == "*" for each in node.names):
                yield source.note(node, "the names of a star import are not known: import each")
            elif not isinstance(source.parents[node], ast.Module):
                yield source.note(node, "an import inside a block: remove what is no longer used")


def _fix(name: str) -> str:
    if name in {"slowapi.util.get_remote_address", "slowapi.util.get_ipaddr"}:
        return (
            "a resolver, Fleetlimit(resolver=...), returns None for a caller that is counted by "
            'its address, and a limit has key="client_address"'
        )
    return "replace or remove its use"

"""Source file with edits by position, and what its names refer to."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleetlimit.errors import FleetlimitError

MAX_FILE_BYTES: Final = 2**21
"""Larger files are generated ones. The tree of one of this size takes some 500 MB."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


class SourceError(FleetlimitError):
    """A file that cannot be read as Python."""


@dataclass(slots=True)
class Note:
    """A place in the code, and what is different or has to be written there by hand.

    Args:
        file: The file.
        line: Line number from 1.
        code: First line of the code there.
        text: What it meant and what to write.
    """

    file: Path
    line: int
    code: str
    text: str


@dataclass(slots=True)
class Edit:
    """Replacement of a part of a text.

    Args:
        start: Offset of the first character.
        end: Offset after the last one.
        new: Text in its place.
    """

    start: int
    end: int
    new: str


@dataclass(slots=True)
class Source:
    """A file of Python code and the edits of it.

    Args:
        path: The file.
        text: Its text, with a line feed as the end of each line; `line_end` is that of the file.
        tree: The text's syntax tree.
        edits: Edits of the text, in any order.
    """

    path: Path
    text: str
    tree: ast.Module
    edits: list[Edit] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    """Full name of what each imported name refers to, such as `slowapi.Limiter`."""
    parents: dict[ast.AST, ast.AST] = field(default_factory=dict)
    line_end: str = "\n"
    _starts: list[int] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Read a file in the encoding that it declares (PEP 263).

        Raises:
            SourceError: The file cannot be read, is too large, or is not Python.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}") from None
        if len(raw) > MAX_FILE_BYTES:
            raise SourceError(f"is larger than {MAX_FILE_BYTES:,} bytes")
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            # With a line feed as the end of each line, as in `ast`.
            text = io.TextIOWrapper(io.BytesIO(raw), encoding).read()
        except (SyntaxError, UnicodeDecodeError, LookupError) as error:
            raise SourceError(f"is not text in the encoding that it declares: {error}") from None
        source = cls.parse(path, text)
        source.line_end = "\r\n" if b"\r\n" in raw else "\n"
        return source

    @classmethod
    def parse(cls, path: Path, text: str) -> "Source":
        """Parse a text as that of a file.

        Raises:
            SourceError: It is not Python.
        """
        try:
            tree = ast.parse(text)
        except SyntaxError as error:
            raise SourceError(f"is not Python, in line {error.lineno}: {error.msg}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise SourceError(f"is not Python: {error or 'it is nested too deep'}") from None
        source = cls(path, text, tree)
        source._index()
        return source

    def _index(self) -> None:
        # Only these end a line in Python; `splitlines` knows more.
        self._lines = self.text.split("\n")
        offset = 0
        for line in self._lines:
            self._starts.append(offset)
            offset += len(line) + 1
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.names[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                for alias in node.names:
                    self.names[alias.asname or alias.name] = f"{module}.{alias.name}"

    def full_name(self, node: ast.AST | None) -> str:
        """Return the full name of a name or attribute; empty for anything else."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            base = self.full_name(node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def code(self, node: ast.AST) -> str:
        """Return the text of a node."""
        start, end = self.span(node)
        return self.text[start:end]

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Return the offsets of a node's first character and after its last one."""
        located: ast.expr = node  # type: ignore[assignment]  # statements have the same attributes
        return (
            self._offset(located.lineno, located.col_offset),
            self._offset(located.end_lineno or 0, located.end_col_offset or 0),
        )

    def _offset(self, line: int, column: int) -> int:
        text = self._lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode())
        return self._starts[line - 1] + column

    def note(self, node: ast.AST, text: str) -> Note:
        """Return a note about a node."""
        line: int = node.lineno  # type: ignore[attr-defined]  # expressions and statements only
        return Note(self.path, line, self._lines[line - 1].strip(), text)

    def replace(self, node: ast.AST, new: str) -> None:
        """Replace a node."""
        self.edits.append(Edit(*self.span(node), new))

    def insert(self, offset: int, new: str) -> None:
        """Insert a text."""
        self.edits.append(Edit(offset, offset, new))

    def delete_decorator(self, node: ast.expr) -> None:
        """Delete the lines of a decorator."""
        self._delete_lines(node.lineno, node.end_lineno or node.lineno)

    def delete_statement(self, node: ast.stmt) -> None:
        """Delete the lines of a statement; the only one of a block becomes `pass`."""
        if self._is_only(node) or self._shares_line(node):
            self.replace(node, "pass")
        else:
            self._delete_lines(node.lineno, node.end_lineno or node.lineno)

    def _is_only(self, node: ast.stmt) -> bool:
        parent = self.parents[node]
        bodies = [value for _, value in ast.iter_fields(parent) if isinstance(value, list)]
        return not isinstance(parent, ast.Module) and [node] in bodies

    def _shares_line(self, node: ast.stmt) -> bool:
        start, end = self.span(node)
        before = self.text[self._starts[node.lineno - 1] : start]
        after = self._lines[(node.end_lineno or node.lineno) - 1][
            end - self._starts[(node.end_lineno or node.lineno) - 1] :
        ].strip()
        return bool(before.strip()) or bool(after and not after.startswith("#"))

    def _delete_lines(self, first: int, last: int) -> None:
        end = self._starts[last] if last < len(self._starts) else len(self.text)
        self.edits.append(Edit(self._starts[first - 1], end, ""))

    def line_start(self, line: int) -> int:
        """Return the offset of a line's first character."""
        return self._starts[line - 1] if line <= len(self._starts) else len(self.text)

    def edited(self) -> str:
        """Return the text after all edits."""
        text, last, parts = self.text, 0, []
        for edit in sorted(self.edits, key=lambda each: (each.start, each.end)):
            if edit.start < last:
                # The edit before includes it, as the deletion of a statement does.
                continue
            parts += [text[last : edit.start], edit.new]
            last = edit.end
        return "".join(parts) + text[last:]

    def is_edited(self, node: ast.AST) -> bool:
        """Return whether an edit replaces a node."""
        start, end = self.span(node)
        return any(each.start <= start and end <= each.end for each in self.edits)

    def functions(self) -> Iterator[Function]:
        """Yield all functions and methods."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node

    def function(self, name: str) -> Function | None:
        """Return the function of this name at the top level; None without one."""
        found = (each for each in self.tree.body if isinstance(each, Function))
        return next((each for each in found if each.name == name), None)

    def add_keyword(self, call: ast.Call, name: str, value: str) -> None:
        """Add a keyword argument at the end of a call."""
        arguments = [*call.args, *call.keywords]
        if not arguments:
            self.insert(self.span(call)[1] - 1, f"{name}={value}")
            return
        end = max(self.span(each)[1] for each in arguments)
        self.insert(end, f", {name}={value}")


def argument(call: ast.Call, name: str, position: int | None = None) -> ast.expr | None:
    """Return an argument of a call by its name or its position; None without it."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if position is not None and position < len(call.args):
        return call.args[position]
    return None


def constant(node: ast.AST | None) -> object:
    """Return the value of a constant; None for anything else."""
    return node.value if isinstance(node, ast.Constant) else None


def text_constant(node: ast.AST | None) -> str | None:
    """Return the value of a constant text; None for anything else."""
    value = constant(node)
    return value if isinstance(value, str) else None


def is_true(node: ast.AST | None) -> bool:
    """Return whether a node is the constant True."""
    return constant(node) is True


def parameter_count(function: Function | ast.Lambda) -> int:
    """Return the number of the positional parameters of a function."""
    return len(function.args.posonlyargs) + len(function.args.args)

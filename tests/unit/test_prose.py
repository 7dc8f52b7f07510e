"""Vocabulary of docstrings and comments: a reminder of words that a reader cannot look up."""

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("app", "tests", "benchmarks", "dashboards/src")
ADVICE = {
    r"tills?|lanes?|books?": "write the name of the class",
    r"(?<!in )flights?": "write `in flight`, or the name of the class",
    r"tells?|told|telling": "write returns, reports, logs, emits or passes",
    r"hears?|heard": "write receives",
    r"anew": "write again, or restarts",
    r"whoever|whom|nobody|somebody|one who|those who": "name the subject",
    r"of yours": "write your own",
    r"(?:be|is|are|was|were) away": "write unavailable, or disconnected",
    r"lets? in|letting in": "write admits, admitted or admitting",
}
"""Words in a sense of their own, and the field's terms. Names in backticks are not looked at."""
EXCEPTIONS = re.compile(r"`[^`]*`")
"""Where such a word is a name, or has its usual sense."""
_PATTERNS = tuple((re.compile(rf"\b(?:{key})\b", re.IGNORECASE), ADVICE[key]) for key in ADVICE)


def folder_of(file: Path) -> str:
    """Return the package of a file, or the kind of test that it is."""
    parts = file.relative_to(ROOT).parent.parts
    return "/".join(parts[: 3 if parts[1:2] in {("fleetlimit",), ("unit",)} else 2])


FILES = sorted(
    file
    for folder in SOURCES
    for file in (ROOT / folder).rglob("*.py")
    # Environments of the benchmarks.
    if not any(part.startswith(".") for part in file.relative_to(ROOT).parts)
)
FOLDERS = sorted({folder_of(file) for file in FILES})


def prose_of(file: Path) -> Iterator[tuple[int, str]]:
    """Return the lines of all docstrings and comments with their numbers.

    A file without any of the words has no lines to look at: to parse all files takes seconds.
    """
    text = file.read_text(encoding="utf-8")
    if not any(pattern.search(text) for pattern, _ in _PATTERNS):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield from enumerate(str(node.value.value).splitlines(), node.lineno)
    with file.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@pytest.mark.parametrize("folder", FOLDERS)
def test_prose_uses_the_terms_of_the_field(folder: str) -> None:
    """No docstring and no comment of a folder has a word of the list."""
    found = [
        f"{file.relative_to(ROOT)}:{number}: {match[0]!r}: {advice}"
        for file in FILES
        if folder_of(file) == folder
        for number, line in prose_of(file)
        for pattern, advice in _PATTERNS
        for match in pattern.finditer(EXCEPTIONS.sub("", line))
    ]
    assert found == [], "\n".join(found)

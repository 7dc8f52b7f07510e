"""Result of a translation: policies, edits and notes, as text for people and for `patch`."""

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fleetlimit.migrate.rates import Rate
from fleetlimit.migrate.source import Note


@dataclass(slots=True)
class FilePolicy:
    """A policy for the policy file.

    Args:
        name: Its name.
        rates: Its limits.
        key: Parts of its key.
        algorithm: How its limits count; empty for the default.
        routes: Templates that it matches; empty for a policy without a match.
        exempt_routes: Templates that are exempt from it.
        comment: Where it is from.
    """

    name: str
    rates: Sequence[Rate]
    key: Sequence[str]
    algorithm: str = ""
    routes: Sequence[str] = ()
    exempt_routes: Sequence[str] = ()
    comment: str = ""

    def lines(self) -> Iterator[str]:
        """Yield the lines of the policy, as an item of the list `policies`."""
        yield f"  - name: {self.name}" + (f"    # {self.comment}" if self.comment else "")
        if self.routes:
            yield f"    match: {{routes: {_flow(self.routes)}}}"
        yield f"    key: [{', '.join(self.key)}]"
        yield "    limits:"
        for rate in self.rates:
            burst = f", burst: {rate.burst}" if rate.burst else ""
            algorithm = f", algorithm: {self.algorithm}" if self.algorithm else ""
            yield f"      - {{rate: {rate.text}{burst}{algorithm}}}"
        if self.exempt_routes:
            yield "    exempt:"
            yield "      routes:"
            for route in self.exempt_routes:
                yield f"        - {json.dumps(route)}"


def _flow(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(json.dumps, texts))}]"


@dataclass(slots=True)
class ChangedFile:
    """A file before and after its edits."""

    path: Path
    before: str
    after: str


@dataclass(slots=True)
class Migration:
    """Translation of some files.

    Args:
        files: Number of Python files that were read.
        policies: Policies for the policy file.
        changed: Files with edits.
        by_hand: What has no translation, or none that reading the code can find.
        differences: What was translated and behaves differently.
        unread: Files that cannot be read, with the reason.
    """

    files: int = 0
    policies: list[FilePolicy] = field(default_factory=list)
    changed: list[ChangedFile] = field(default_factory=list)
    by_hand: list[Note] = field(default_factory=list)
    differences: list[Note] = field(default_factory=list)
    unread: list[tuple[Path, str]] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to write by hand."""
        return not self.by_hand and not self.unread

    @property
    def is_empty(self) -> bool:
        """Whether no limiter was found."""
        return not self.policies and not self.changed and not self.by_hand

    def policy_file(self) -> str:
        """Return the text of the policy file; empty if all limits are in code."""
        if not self.policies:
            return ""
        lines = [line for policy in self.policies for line in policy.lines()]
        return "\n".join(["version: 1", "policies:", *lines, ""])

    def patch(self) -> str:
        """Return the edits as a unified diff, which `git apply` and `patch -p1` accept."""
        return "".join(_diff(each) for each in self.changed)

    def report(self, policy_path: str) -> str:
        """Return all of it as text.

        Args:
            policy_path: Path of the policy file, as the code names it.
        """
        if self.is_empty and not self.unread:
            return f"no slowapi and no fastapi-limiter in {_count(self.files, 'Python file')}\n"
        return "\n".join(self._sections(policy_path))

    def _sections(self, policy_path: str) -> Iterator[str]:
        if self.policies:
            yield _title(f"policy file: {policy_path}")
            yield self.policy_file()
        if self.changed:
            yield _title("edits")
            yield self.patch()
        if self.differences:
            yield _title("what behaves differently")
            yield from map(_note_text, _sorted(self.differences))
        if self.by_hand:
            yield _title("by hand: what has no translation")
            yield from map(_note_text, _sorted(self.by_hand))
        if self.unread:
            yield _title("not read")
            yield from (f"{path}: {reason}\n" for path, reason in self.unread)
        yield (
            f"{_count(self.files, 'file')} read, {_count(len(self.changed), 'file')} to edit, "
            f"{_count(len(self.policies), 'policy', 'policies')}, "
            f"{_count(len(self.by_hand), 'place')} by hand\n"
        )


def _title(text: str) -> str:
    return f"=== {text}\n"


def _note_text(note: Note) -> str:
    return f"{note.file}:{note.line}: {note.code}\n    {note.text}\n"


def _sorted(notes: Iterable[Note]) -> list[Note]:
    unique = {(str(note.file), note.line, note.text): note for note in notes}
    return [unique[key] for key in sorted(unique)]


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def _diff(file: ChangedFile) -> str:
    path = file.path.as_posix().removeprefix("/")
    lines = difflib.unified_diff(_lines(file.before), _lines(file.after), f"a/{path}", f"b/{path}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _lines(text: str) -> list[str]:
    """Return the lines with their ends; only a line feed ends one, as for `patch`."""
    *lines, last = text.split("\n")
    return [*(f"{line}\n" for line in lines), *([last] if last else [])]

"""Pages of the documentation, and the files that their code blocks contain."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from support.tool import ROOT

_FILE_BLOCK: Final = re.compile(
    r"^```(?:python|yaml|ini)\n# (\S+\.\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
"""A block whose first line is a comment with a file name."""
Load = Callable[[str, str], ModuleType]
"""Writes the files of a page, and imports one of its modules; the fixture `load`."""
PAGES: Final = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def files_of(page: Path) -> dict[str, str]:
    """Return the text of each file of a page by its name."""
    return dict(_FILE_BLOCK.findall(page.read_text("utf-8")))


@contextmanager
def project_of(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the files of a page into a folder, and import its modules from there.

    Args:
        page: The page, such as `docs/tutorial.md`.
        folder: Folder that gets the files, and becomes the current one.
        monkeypatch: Undoes both after the test.
    """
    files = files_of(page)
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    try:
        yield folder
    finally:
        for name in files:
            sys.modules.pop(name.removesuffix(".py"), None)


def write_keys(file: Path, **tiers: str | None) -> None:
    """Write an API key file whose keys are the principals' names, each with its tier."""
    lines = [
        f"  - {{sha256: {sha256(name.encode()).hexdigest()}, principal: {name}"
        + (f", tier: {tier}}}" if tier else "}")
        for name, tier in tiers.items()
    ]
    file.write_text("\n".join(["keys:", *lines, ""]), "utf-8")

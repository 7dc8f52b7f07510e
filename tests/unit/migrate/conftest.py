"""Shared by the tests of the translator: files to translate, and the app after the edits."""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from fleetlimit.migrate.result import Migration
from fleetlimit.migrate.translate import translate

Translated = Callable[..., Migration]


@pytest.fixture
def translated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Translated:
    """Return a function that writes files, and translates the directory."""
    monkeypatch.chdir(tmp_path)

    def write_and_translate(text: str = "", algorithm: str = "", **files: str) -> Migration:
        if text:
            files["main"] = text
        for name, content in files.items():
            path = Path("app") / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return translate(Path("app"), algorithm=algorithm)

    return write_and_translate


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Migration], Any]]:
    """Return a function that writes the edited files, and imports `app.main`."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def load(migration: Migration) -> Any:
        for each in migration.changed:
            each.path.write_text(each.after, encoding="utf-8")
        if migration.policies:
            Path("policies.yaml").write_text(migration.policy_file(), encoding="utf-8")
        Path("app/__init__.py").touch()
        invalidate_caches()
        return import_module("app.main")

    yield load
    for name in [each for each in sys.modules if each == "app" or each.startswith("app.")]:
        del sys.modules[name]

"""A folder with the files of a page, whose limiters run on a clock of the test."""

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import fleetlimit
from fleetlimit.testing import ManualClock
from support.pages import Load, project_of
from support.tool import ROOT


@pytest.fixture
def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Write the files of the module's `PAGE` into a folder, and change into it."""
    with project_of(ROOT / request.module.PAGE, tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fleetlimit_clock: ManualClock
) -> Iterator[Load]:
    """Return a function that imports a module of a page, with every `Fleetlimit` on the clock."""
    monkeypatch.setattr(
        fleetlimit, "Fleetlimit", partial(fleetlimit.Fleetlimit, clock=fleetlimit_clock)
    )
    projects = []

    def load_module(page: str, name: str) -> ModuleType:
        projects.append(project_of(ROOT / page, tmp_path, monkeypatch))
        projects[-1].__enter__()
        return import_module(name)

    yield load_module
    for each in projects:
        each.__exit__(None, None, None)

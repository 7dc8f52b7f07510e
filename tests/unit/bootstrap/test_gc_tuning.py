"""Garbage collector: `Fleetlimit` changes it only on request."""

import gc
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fleetlimit import Fleetlimit
from fleetlimit.__main__ import main
from fleetlimit.bootstrap.gc_tuning import GC_THRESHOLD


@pytest.fixture(autouse=True)
def _restored_threshold() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def app() -> FastAPI:
    """Return an app whose limiter tunes the garbage collector."""
    return FastAPI(lifespan=Fleetlimit(store="memory://", tune_gc=True))


def test_fleetlimit_leaves_the_gc_alone_by_default() -> None:
    """Neither the threshold nor the frozen heap changes in an app that did not request it."""
    gc.set_threshold(700, 11, 12)
    before = gc.get_freeze_count()
    with TestClient(FastAPI(lifespan=Fleetlimit(store="memory://"))):
        assert gc.get_threshold() == (700, 11, 12)
        assert gc.get_freeze_count() == before


def test_heap_is_frozen_while_the_app_runs() -> None:
    """The objects made at start are frozen until the lifespan ends."""
    before = gc.get_freeze_count()
    with TestClient(app()):
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == 0


def test_gc_threshold_is_raised_while_the_app_runs() -> None:
    """The generation-0 threshold is raised until the lifespan ends, then restored."""
    gc.set_threshold(700, 11, 12)
    with TestClient(app()):
        assert gc.get_threshold() == (GC_THRESHOLD, 11, 12)
    assert gc.get_threshold() == (700, 11, 12)


async def test_gc_threshold_is_raised_without_an_app() -> None:
    """In a worker, it is raised from the start of a `Fleetlimit` until its end."""
    gc.set_threshold(700, 11, 12)
    async with Fleetlimit(store="memory://", tune_gc=True):
        assert gc.get_threshold() == (GC_THRESHOLD, 11, 12)
    assert gc.get_threshold() == (700, 11, 12)


def test_gc_threshold_is_raised_while_a_command_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The modules of a command are imported with few collections."""
    gc.set_threshold(700, 11, 12)
    during = []
    monkeypatch.setattr("fleetlimit.cli.main", lambda: during.append(gc.get_threshold()))
    main()
    assert during == [(GC_THRESHOLD, 11, 12)]
    assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("threshold", [0, GC_THRESHOLD + 1])
def test_gc_threshold_of_the_process_is_kept(threshold: int) -> None:
    """A collector that is off, or has a higher threshold, is not changed."""
    gc.set_threshold(threshold, 11, 12)
    with TestClient(app()):
        assert gc.get_threshold() == (threshold, 11, 12)
    assert gc.get_threshold() == (threshold, 11, 12)

"""While an app lives, what it was made of is no work for the garbage collector."""

import gc
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fleetlimit import Fleetlimit
from fleetlimit.bootstrap.gc_tuning import GC_THRESHOLD


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


def app() -> FastAPI:
    """Return an app with a limiter."""
    return FastAPI(lifespan=Fleetlimit(store="memory://"))


def test_what_was_made_at_start_is_left_alone_for_as_long_as_the_app_lives() -> None:
    """It is out of the collector's rounds then, and in them again afterwards."""
    before = gc.get_freeze_count()
    with TestClient(app()):
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == 0


def test_the_collector_comes_less_often_for_as_long_as_the_app_lives() -> None:
    """It waits for more new objects then, and for as many as before afterwards."""
    gc.set_threshold(700, 11, 12)
    with TestClient(app()):
        assert gc.get_threshold() == (GC_THRESHOLD, 11, 12)
    assert gc.get_threshold() == (700, 11, 12)


async def test_the_collector_comes_less_often_in_a_worker_without_an_app() -> None:
    """It does from the start of a `Fleetlimit` until its end."""
    gc.set_threshold(700, 11, 12)
    async with Fleetlimit(store="memory://"):
        assert gc.get_threshold() == (GC_THRESHOLD, 11, 12)
    assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("young", [0, GC_THRESHOLD + 1])
def test_a_collector_that_was_set_by_somebody_stays_as_it_is(young: int) -> None:
    """Switched off, or coming less often still, it is not set at all."""
    gc.set_threshold(young, 11, 12)
    with TestClient(app()):
        assert gc.get_threshold() == (young, 11, 12)
    assert gc.get_threshold() == (young, 11, 12)

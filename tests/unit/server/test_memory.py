"""While an app lives, what it was made of is no work for the garbage collector."""

import gc

from fastapi import FastAPI
from fastapi.testclient import TestClient

from headgate import Headgate


def test_what_was_made_at_start_is_left_alone_for_as_long_as_the_app_lives() -> None:
    """It is out of the collector's rounds then, and in them again afterwards."""
    before = gc.get_freeze_count()
    with TestClient(FastAPI(lifespan=Headgate(store="memory://"))):
        assert gc.get_freeze_count() > before
    assert gc.get_freeze_count() == 0

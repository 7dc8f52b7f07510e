"""Limiters of the web tests."""

import pytest

from fleetlimit.bootstrap import default_limiter
from fleetlimit.web.http_limiter import HTTPLimiter
from support.web import LimiterBench


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[LimiterBench]:
    """Open a bench in place of the environment's limiter, and return those that were opened."""
    benches: list[LimiterBench] = []

    def open_bench() -> HTTPLimiter:
        benches.append(LimiterBench())
        return benches[-1].http_limiter

    monkeypatch.setattr(default_limiter, "open_limiter_from_env", open_bench)
    return benches

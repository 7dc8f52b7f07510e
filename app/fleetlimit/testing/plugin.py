"""Pytest fixtures: `fleetlimit_clock`, `fleetlimit_store`, `make_fleetlimit` and `fleetlimit`."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.policy import PolicySet
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.testing import FleetlimitFactory, ManualClock


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses the store."""
    parser.addini(
        "fleetlimit_store",
        "Store of the fleetlimit fixtures: memory, or embedded for a real Valkey.",
        default="memory",
    )


@pytest.fixture
def fleetlimit_clock() -> ManualClock:
    """Return the clock of the test's limiters; `fleetlimit_clock.move(60)` lets a minute pass."""
    return ManualClock()


@pytest.fixture(scope="session")
def fleetlimit_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the store's URL: `memory://`, or an embedded Valkey with `fleetlimit_store=embedded`.

    Override it in a conftest.py to use a store of your own.
    """
    chosen = request.config.getini("fleetlimit_store")
    if chosen == "memory":
        yield "memory://"
    elif chosen == "embedded":
        with EmbeddedValkey() as valkey:
            yield valkey.url
    else:
        raise pytest.UsageError(f"fleetlimit_store is memory or embedded, not {chosen!r}")


@pytest.fixture
def make_fleetlimit(fleetlimit_clock: ManualClock, fleetlimit_store: str) -> FleetlimitFactory:
    """Return a maker of limiters on the test's clock; each has keys of its own in the store.

    `FastAPI(lifespan=make_fleetlimit("policies.yaml"))` is an app under test; it needs the lifespan
    to run, as `with TestClient(app)` does.
    """

    def make(policies: str | Path | PolicySet | None = None) -> Fleetlimit:
        settings = Settings(
            store=fleetlimit_store,
            key_prefix=f"test-{secrets.token_hex(4)}",
            # A test is about the limits, not about a store that a busy machine makes late.
            store_timeout=5,
            breaker_failures=1_000,
        )
        return Fleetlimit(policies=policies, settings=settings, clock=fleetlimit_clock)

    return make


@pytest.fixture
def fleetlimit(make_fleetlimit: FleetlimitFactory) -> Fleetlimit:
    """Return a limiter on the test's clock without policies of its own."""
    return make_fleetlimit(None)

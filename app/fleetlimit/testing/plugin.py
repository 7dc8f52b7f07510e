"""Pytest fixtures: clock, store and factory of limiters, a limiter, and a switch of all limits.

The package is imported inside the fixtures, because pytest loads this plugin in every run.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fleetlimit.bootstrap.fleetlimit import Fleetlimit
    from fleetlimit.testing.clock import ManualClock
    from fleetlimit.testing.factory import FleetlimitFactory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `fleetlimit_store`."""
    parser.addini(
        "fleetlimit_store",
        "Store of the fleetlimit fixtures: memory, or embedded for a real Valkey.",
        default="memory",
    )


@pytest.fixture
def fleetlimit_clock() -> "ManualClock":
    """Return the clock of the test's limiters; `fleetlimit_clock.advance(60)` adds a minute."""
    from fleetlimit.testing.clock import ManualClock

    return ManualClock()


@pytest.fixture(scope="session")
def fleetlimit_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the store's URL: `memory://`, or an embedded Valkey with `fleetlimit_store=embedded`.

    Override it in a conftest.py to use a running store.
    """
    chosen = request.config.getini("fleetlimit_store")
    if chosen == "memory":
        yield "memory://"
    elif chosen == "embedded":
        from fleetlimit.stores.embedded import EmbeddedValkey

        with EmbeddedValkey() as valkey:
            yield valkey.url
    else:
        raise pytest.UsageError(
            f"fleetlimit_store={chosen!r} is not a store: write memory or embedded"
        )


@pytest.fixture
def make_fleetlimit(fleetlimit_clock: "ManualClock", fleetlimit_store: str) -> "FleetlimitFactory":
    """Return a factory of limiters on the test's clock, each with its own keys in the store.

    `FastAPI(lifespan=make_fleetlimit("policies.yaml"))` is an app under test. Its lifespan must
    run, as in `with TestClient(app)`.
    """
    from fleetlimit.testing.factory import make_factory

    return make_factory(fleetlimit_clock, fleetlimit_store)


@pytest.fixture
def fleetlimit(make_fleetlimit: "FleetlimitFactory") -> "Fleetlimit":
    """Return a limiter on the test's clock without policies."""
    return make_fleetlimit()


@pytest.fixture
def fleetlimit_unlimited() -> Iterator[None]:
    """Turn off all limits of the process during the test, as `unlimited()` does."""
    from fleetlimit.testing.switch import unlimited

    with unlimited():
        yield

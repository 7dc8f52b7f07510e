"""Fixtures for pytest: `headgate_clock`, `headgate_store`, `make_headgate` and `headgate`."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.core.policy import PolicySet
from headgate.server.headgate import Headgate
from headgate.server.settings import Settings
from headgate.stores.embedded import EmbeddedValkey
from headgate.testing import MakeHeadgate, MovedClock


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that chooses the store."""
    parser.addini(
        "headgate_store",
        "Store of the headgate fixtures: memory, or embedded for a real Valkey.",
        default="memory",
    )


@pytest.fixture
def headgate_clock() -> MovedClock:
    """Return the clock of the test's limiters; `headgate_clock.move(60)` lets a minute pass."""
    return MovedClock()


@pytest.fixture(scope="session")
def headgate_store(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the store's URL: `memory://`, or an embedded Valkey's with `headgate_store=embedded`.

    Override it in a conftest.py to use a store of your own.
    """
    chosen = request.config.getini("headgate_store")
    if chosen == "memory":
        yield "memory://"
    elif chosen == "embedded":
        with EmbeddedValkey() as valkey:
            yield valkey.url
    else:
        raise pytest.UsageError(f"headgate_store is memory or embedded, not {chosen!r}")


@pytest.fixture
def make_headgate(headgate_clock: MovedClock, headgate_store: str) -> MakeHeadgate:
    """Return a maker of limiters on the test's clock; each has keys of its own in the store.

    `FastAPI(lifespan=make_headgate("policies.yaml"))` is an app under test; it needs the lifespan
    to run, as `with TestClient(app)` does.
    """

    def make(policies: str | Path | PolicySet | None = None) -> Headgate:
        settings = Settings(
            store=headgate_store,
            key_prefix=f"test-{secrets.token_hex(4)}",
            # A test is about the limits, not about a store that a busy machine makes late.
            store_timeout=5,
            breaker_failures=1_000,
        )
        return Headgate(policies=policies, settings=settings, clock=headgate_clock)

    return make


@pytest.fixture
def headgate(make_headgate: MakeHeadgate) -> Headgate:
    """Return a limiter on the test's clock without policies of its own."""
    return make_headgate(None)

"""What all tests share: one event loop library, one Valkey, one cluster, no deadlines."""

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import structlog

from fleetlimit.stores.embedded import EmbeddedValkey
from support.cluster import cluster

# A shared machine may pause for longer than any useful deadline. The same examples in each run, so
# that a failure and the measured coverage repeat; `--hypothesis-profile=search` draws others.
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.register_profile("fleetlimit", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fleetlimit")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Run asynchronous tests on asyncio's own loop."""
    return "asyncio", {"use_uvloop": False}


@pytest.fixture(autouse=True)
def _logging_as_found() -> Iterator[None]:
    """Undo the logging configuration of a test that serves: other tests log inside an app."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedValkey]:
    """Return a Valkey server; a test that stops or reconfigures one starts its own."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """Return the URL of a cluster of three Valkey servers."""
    with cluster() as found:
        yield found.url

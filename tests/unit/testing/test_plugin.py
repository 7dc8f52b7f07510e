"""Pytest plugin of the package, in the tests of an application."""

import subprocess
import sys
from operator import attrgetter

import pytest

from fleetlimit import testing

pytest_plugins = ["pytester"]

_USERS_TEST = """
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fleetlimit import Limit, Policy, PolicySet, RateLimit, RateLimitMiddleware


@pytest.fixture
def client(make_fleetlimit):
    policies = PolicySet([Policy("default", (Limit.rate("2/minute"),))])
    app = FastAPI(lifespan=make_fleetlimit(policies))
    app.add_middleware(RateLimitMiddleware)

    @app.get("/", dependencies=[Depends(RateLimit("1/second"))])
    async def read() -> None: ...

    with TestClient(app) as client:
        yield client


def test_both_limits(client, fleetlimit_clock):
    assert client.get("/").status_code == 200
    rejected = client.get("/")
    assert rejected.status_code == 429
    fleetlimit_clock.advance(int(rejected.headers["Retry-After"]))
    assert client.get("/").status_code == 200
    fleetlimit_clock.advance(1)
    assert client.get("/").status_code == 429
    fleetlimit_clock.advance(60)
    assert client.get("/").status_code == 200


async def test_own_keys(fleetlimit, fleetlimit_store):
    assert fleetlimit_store.startswith(EXPECTED)
    async with fleetlimit:
        policy = Policy("once", (Limit.rate("1/day"),))
        assert (await fleetlimit.limiter.check(policy, principal="alice")).allowed
        assert not (await fleetlimit.limiter.check(policy, principal="alice")).allowed
"""


@pytest.fixture
def users_project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"
        """
    )
    return pytester


@pytest.mark.parametrize(("store", "url"), [("memory", "memory://"), ("embedded", "redis://")])
def test_fixtures_advance_time_over_production_code(
    users_project: pytest.Pytester, store: str, url: str
) -> None:
    """A limit rejects a request, and admits one after the test advanced the clock."""
    users_project.makeini(f"[pytest]\nanyio_mode = auto\nfleetlimit_store = {store}\n")
    users_project.makepyfile(_USERS_TEST.replace("EXPECTED", repr(url)))
    users_project.runpytest_subprocess().assert_outcomes(passed=2)


def test_unknown_store_is_an_error(users_project: pytest.Pytester) -> None:
    """A store that is neither memory nor embedded is an error with the values to write."""
    users_project.makeini("[pytest]\nfleetlimit_store = disk\n")
    users_project.makepyfile("def test_it(fleetlimit_store): ...")
    result = users_project.runpytest_subprocess()
    result.stdout.fnmatch_lines(
        ["*fleetlimit_store='disk' is not a store: write memory or embedded*"]
    )


def test_plugin_imports_nothing_of_the_package() -> None:
    """A pytest run without these fixtures imports the plugin, but no limiter and no framework."""
    code = (
        "import sys, fleetlimit, pytest; before = set(sys.modules)\n"
        "import fleetlimit.testing.plugin\n"
        "print(*sorted(name for name in set(sys.modules) - before if '.' in name))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.split() == ["fleetlimit.testing", "fleetlimit.testing.plugin"]


def test_unknown_name_of_the_package_is_an_error() -> None:
    """The lazy package has its public names only."""
    with pytest.raises(AttributeError, match="no_such_name"):
        attrgetter("no_such_name")(testing)

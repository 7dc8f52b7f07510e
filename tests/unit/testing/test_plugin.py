"""The pytest plugin that users get with the package."""

import pytest

pytest_plugins = ["pytester"]

_USERS_TEST = """
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from fleetlimit import RateLimit, RateLimitMiddleware, PolicySet, Policy


@pytest.fixture
def client(make_fleetlimit):
    policies = PolicySet([Policy("default", "2/minute")])
    app = FastAPI(lifespan=make_fleetlimit(policies))
    app.add_middleware(RateLimitMiddleware)

    @app.get("/", dependencies=[Depends(RateLimit("1/second"))])
    async def read() -> None: ...

    with TestClient(app) as client:
        yield client


def test_both_limits(client, fleetlimit_clock):
    assert client.get("/").status_code == 200
    refused = client.get("/")
    assert refused.status_code == 429
    fleetlimit_clock.advance(int(refused.headers["Retry-After"]))
    assert client.get("/").status_code == 200
    fleetlimit_clock.advance(1)
    assert client.get("/").status_code == 429
    fleetlimit_clock.advance(60)
    assert client.get("/").status_code == 200


async def test_own_keys(fleetlimit, fleetlimit_store):
    assert fleetlimit_store.startswith(EXPECTED)
    async with fleetlimit:
        policy = Policy("once", "1/day")
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
def test_users_move_time_over_production_code(
    users_project: pytest.Pytester, store: str, url: str
) -> None:
    """A user's test sees a limit refuse and, with the clock moved, let in again."""
    users_project.makeini(f"[pytest]\nanyio_mode = auto\nfleetlimit_store = {store}\n")
    users_project.makepyfile(_USERS_TEST.replace("EXPECTED", repr(url)))
    users_project.runpytest_subprocess().assert_outcomes(passed=2)


def test_unknown_store_is_named(users_project: pytest.Pytester) -> None:
    """A store that is neither memory nor embedded is an error that says what to write."""
    users_project.makeini("[pytest]\nfleetlimit_store = disk\n")
    users_project.makepyfile("def test_it(fleetlimit_store): ...")
    result = users_project.runpytest_subprocess()
    result.stdout.fnmatch_lines(["*fleetlimit_store is memory or embedded, not 'disk'*"])

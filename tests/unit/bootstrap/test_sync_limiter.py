"""Checks by hand from code that is not async."""

import asyncio
import gc
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from fleetlimit import (
    ConfigError,
    DepCaller,
    DepLimiter,
    Fleetlimit,
    Policy,
    PolicySet,
    RateLimitExceeded,
    Settings,
)
from fleetlimit.core.quota import concurrency_quota
from fleetlimit.limiter.own_loop import OwnLoop
from fleetlimit.stores.embedded import EmbeddedValkey
from support.eventually import PATIENCE_SECONDS

POLICIES = PolicySet(
    [
        Policy("emails", "2/hour"),
        Policy("slots", concurrency_quota(1, lease=30), key="global"),
        Policy("fast", "1000/second", key="global"),
    ]
)


@pytest.fixture(params=["memory", "valkey"])
def limits(request: pytest.FixtureRequest) -> Fleetlimit:
    """Return a limiter that was not started, over memory and over a server."""
    url = "memory://"
    if request.param == "valkey":
        server: EmbeddedValkey = request.getfixturevalue("valkey")
        url = server.url
    prefix = f"test-{secrets.token_hex(4)}"
    settings = Settings(store=url, key_prefix=prefix, store_timeout=5, breaker_failures=1_000)
    return Fleetlimit(policies=POLICIES, settings=settings)


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "fleetlimit-sync"]


def test_checks_of_a_script_block_until_they_are_decided(limits: Fleetlimit) -> None:
    """`with limits.sync()` starts the limiter in a thread, and ends both."""
    with limits.sync() as sync:
        assert sync.check("emails", principal="ann").allowed
        assert sync.peek("emails", principal="ann").allowed
        reservation = sync.reserve("emails", principal="ann")
        assert reservation.decision.allowed
        with pytest.raises(RateLimitExceeded):
            sync.check("emails", principal="ann")
        reservation.refund()
        sync.reserve("emails", principal="ann").commit(0)
        sync.acquire("emails", principal="ann", timeout=1)
        assert sync.reset("emails", principal="ann") == 1
        for _ in range(3):
            with sync.reserve("slots"), pytest.raises(RateLimitExceeded):
                sync.acquire("slots", timeout=0)
        assert threads()
    assert not threads()


def test_first_check_starts_the_limiter(limits: Fleetlimit) -> None:
    """A module may make the limiter, and each process starts its own with its first check."""
    sync = limits.sync()
    assert not threads()
    with ThreadPoolExecutor(8) as pool:
        waits = [pool.submit(sync.check, "fast") for _ in range(50)]
        assert all(each.result(PATIENCE_SECONDS).allowed for each in waits)
    assert len(threads()) == 1
    sync.close()
    sync.close()
    assert not threads()
    assert sync.check("fast").allowed
    sync.close()


def test_dropped_limiter_does_not_keep_the_process(limits: Fleetlimit) -> None:
    """The thread is a daemon, and is closed when the process ends."""
    sync = limits.sync()
    sync.check("fast")
    (thread,) = [each for each in threading.enumerate() if each.name == "fleetlimit-sync"]
    assert thread.daemon
    sync.close()
    del sync
    gc.collect()


def test_failed_start_ends_the_thread() -> None:
    """An error of the start is raised by the first check, and by the next one again."""
    registry = CollectorRegistry()
    limits = Fleetlimit(policies=POLICIES, registry=registry)
    other = Fleetlimit(policies=POLICIES, registry=registry)
    with limits.sync(), pytest.raises(ConfigError, match="registry"):
        other.sync().check("fast")
    assert not threads()
    with other.sync() as sync:
        sync.check("fast")


async def test_blocking_check_in_async_code_is_an_error(limits: Fleetlimit) -> None:
    """A call that would block the event loop says to write `await`."""
    sync = limits.sync()
    with pytest.raises(ConfigError, match="would block the event loop"):
        sync.check("fast")
    with pytest.raises(ConfigError, match="write `async with`"), sync:
        pass


async def test_running_limiter_is_used_in_its_event_loop(limits: Fleetlimit) -> None:
    """A thread beside an event loop uses the limiter that runs there, and does not close it."""
    async with limits:
        await limits.check("emails", principal="ann")

        def work() -> bool:
            with limits.sync() as sync:
                sync.check("emails", principal="ann")
            return not sync.peek("emails", principal="ann").allowed

        assert await asyncio.to_thread(work)
        assert not threads()
        assert await limits.reset("emails", principal="ann") == 1


@pytest.mark.parametrize("url", ["/caller", "/limiter"])
def test_endpoint_that_is_not_async_checks_by_hand(limits: Fleetlimit, url: str) -> None:
    """`def` endpoints use `caller.sync()` and `limits.sync()`."""
    app = FastAPI(lifespan=limits)

    @app.get("/caller")
    def by_caller(caller: DepCaller) -> str:
        caller.sync().check("emails")
        return "ok"

    @app.get("/limiter")
    def by_limiter(limits: DepLimiter) -> str:
        limits.sync().check("emails", principal="ann")
        return "ok"

    with TestClient(app) as client:
        assert [client.get(url).status_code for _ in range(3)] == [200, 200, 429]
        assert client.get(url).json()["violated-policies"] == ["emails"]


def test_face_of_a_request_ends_with_its_app() -> None:
    """A caller's face that outlives the app says so, and starts nothing."""
    app = FastAPI(lifespan=Fleetlimit(policies=POLICIES))
    faces = []

    @app.get("/")
    def index(caller: DepCaller) -> None:
        faces.append(caller.sync())

    with TestClient(app) as client:
        client.get("/")
    with pytest.raises(ConfigError, match="the limiter does not run"):
        faces[0].check("emails")
    assert OwnLoop().running is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_check_in_a_forked_process_is_an_error(limits: Fleetlimit) -> None:
    """A child has neither the thread nor connections of its own: a check must not wait for them."""
    sync = limits.sync()
    sync.check("fast")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - in another process
        message = "no error"
        try:
            sync.check("fast")
        except ConfigError as error:
            message = str(error)
        finally:
            os.write(writing, message.encode())
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert "connected to worker_process_init" in pipe.read()
    sync.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_limiter_that_was_made_before_a_fork_starts_in_the_child(limits: Fleetlimit) -> None:
    """A limiter of a module, which the parent has not used, works in a worker process."""
    sync = limits.sync()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - in another process
        try:
            os.write(writing, sync.check("fast").outcome.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "allowed"

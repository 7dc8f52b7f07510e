"""The service while its store is killed, restarted, frozen or unavailable at the start."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlimit.stores.embedded import EmbeddedValkey
from support.eventually import PATIENCE_SECONDS, eventually_async
from support.server import ServeProcess, fetch

POLICIES = """\
version: 1
policies:
  - {name: default, limits: [{rate: 1000/day}]}
  - {name: shut, match: {routes: [/exports]}, limits: [{rate: 1000/day}], on_store_error: deny}
  - {name: open, match: {routes: [/whoami]}, limits: [{rate: 1000/day}], on_store_error: allow}
  - name: near
    match: {routes: ["/items/{item_id}"]}
    limits: [{rate: 3/day}]
    on_store_error: local
"""


@pytest.fixture
def policies(tmp_path: Path) -> str:
    path = tmp_path / "policies.yaml"
    path.write_text(POLICIES)
    return str(path)


@pytest.fixture
def store() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


async def statuses(service: ServeProcess, path: str, times: int, method: str = "GET") -> list[int]:
    """Return the statuses of several requests in turn, none of which waits for the store."""
    found = []
    for _ in range(times):
        async with asyncio.timeout(PATIENCE_SECONDS):
            answer = await fetch(service.port, path, method=method)
        assert answer.status == 200 or "retry-after" in answer.headers
        found.append(answer.status)
    return found


async def store_status(service: ServeProcess) -> str:
    readyz = await service.admin("/readyz")
    assert readyz.status == 200
    status: str = readyz.json["store"]["status"]
    return status


async def is_back(service: ServeProcess) -> bool:
    return await store_status(service) == "ok"


async def is_unavailable(service: ServeProcess) -> bool:
    return await store_status(service) == "unavailable"


async def test_killed_store_causes_no_500_and_is_used_after_its_restart(
    policies: str, store: EmbeddedValkey
) -> None:
    """No 500: each policy follows `on_store_error`, health stays, and no new process is needed.

    Bugs of others: slowapi #213 and #253, fastapi-limiter #54.
    """
    with ServeProcess("--policies", policies, "--store", store.url) as service:
        await service.ready()
        assert await statuses(service, "/items/1", 4) == [200, 200, 200, 429]

        store.stop()
        assert await statuses(service, "/exports", 5, "POST") == [503] * 5
        assert await statuses(service, "/whoami", 5) == [200] * 5
        # A local bucket with the limit divided by one live replica.
        await eventually_async(lambda: denial_cache_expired(service))
        assert await statuses(service, "/items/1", 3) == [200, 200, 429]
        assert await eventually_async(lambda: is_unavailable(service))
        assert (await service.admin("/livez")).status == 200
        assert await service.metric("fleetlimit_breaker_open") == 1
        assert await service.metric("fleetlimit_store_errors_total") >= 3
        assert await service.metric("fleetlimit_store_state_lost_total") == 0

        store.start()
        await eventually_async(lambda: is_back(service))
        assert await statuses(service, "/exports", 2, "POST") == [200, 200]
        assert await statuses(service, "/items/1", 4) == [200, 200, 200, 429]
        assert await service.metric("fleetlimit_store_state_lost_total") == 1
        assert await service.metric("fleetlimit_breaker_open") == 0
        assert len(service.logged("store.state_lost")) == 1
        assert await service.stop() == 0
        for event in ("store.unavailable", "store.breaker.open", "store.breaker.closed"):
            assert service.logged(event)


async def denial_cache_expired(service: ServeProcess) -> bool:
    """Return whether the cached denial of the store, valid for a second, has expired."""
    return (await service.get("/items/1")).status == 200


async def test_frozen_store_delays_requests_only_until_the_timeout(
    policies: str, store: EmbeddedValkey
) -> None:
    """Requests to a frozen store, also many at once, end soon, and it is used again later."""
    with ServeProcess("--policies", policies, "--store", store.url) as service:
        await service.ready()
        assert await statuses(service, "/exports", 1, "POST") == [200]
        os.kill(store.pid, signal.SIGSTOP)
        try:
            crowd = await asyncio.gather(
                *(statuses(service, path, 2) for path in ["/whoami", "/items/1"] * 20),
                *(statuses(service, "/exports", 2, "POST") for _ in range(20)),
            )
            assert {status for each in crowd for status in each} == {200, 429, 503}
            assert await eventually_async(lambda: is_unavailable(service))
            assert await statuses(service, "/exports", 3, "POST") == [503] * 3
        finally:
            os.kill(store.pid, signal.SIGCONT)
        await eventually_async(lambda: is_back(service))
        assert await statuses(service, "/exports", 1, "POST") == [200]
        assert await service.metric("fleetlimit_store_state_lost_total") == 0


async def test_shutdown_does_not_wait_for_a_frozen_store(
    policies: str, store: EmbeddedValkey
) -> None:
    """SIGTERM ends the service although the store does not respond to its last call."""
    with ServeProcess("--policies", policies, "--store", store.url) as service:
        await service.ready()
        os.kill(store.pid, signal.SIGSTOP)
        try:
            assert await service.stop() == 0
        finally:
            os.kill(store.pid, signal.SIGCONT)


async def test_service_starts_without_the_store(policies: str, store: EmbeddedValkey) -> None:
    """The service starts while the store is unavailable, and uses it once it responds."""
    store.stop()
    with ServeProcess("--policies", policies, "--store", store.url) as service:
        await service.ready()
        assert await statuses(service, "/exports", 3, "POST") == [503] * 3
        store.start()
        await eventually_async(lambda: is_back(service))
        assert await statuses(service, "/exports", 1, "POST") == [200]
        assert await service.metric("fleetlimit_store_state_lost_total") == 0

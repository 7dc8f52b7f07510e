"""Several processes of the service over one store, with all shortcuts on and with all off."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from fleetlimit.stores.embedded import EmbeddedValkey
from support.eventually import eventually_async
from support.server import ServeProcess, fetch, send
from support.shortcuts import ALL_OR_NONE, VARIANTS, Shortcut

LIMIT, REPLICAS, REQUESTS = 100, 2, 600
TOKEN = "a-token-of-the-admin"  # noqa: S105 - of this test alone
WITH_ALL_OR_NONE = pytest.mark.parametrize("without", ALL_OR_NONE.values(), ids=ALL_OR_NONE)

Without = Sequence[Shortcut]
Pair = tuple[ServeProcess, ServeProcess]
PAIR = """
version: 1
policies:
  - {name: items, match: {routes: ["/items/{item_id}"]}, limits: [{rate: 1/day}]}
  - {name: stream, match: {routes: [/stream]}, limits: [{concurrency: 1, lease: 30}]}
"""
"""Policies of a pair of replicas, with one route for each test."""


def settings(valkey: EmbeddedValkey, prefix: str, without: Without) -> dict[str, str]:
    return {
        "FLEETLIMIT_STORE": valkey.url,
        # Short: a prefix has at most 32 characters.
        "FLEETLIMIT_KEY_PREFIX": "-".join([prefix, *(each[:3] for each in without)]),
        "FLEETLIMIT_ADMIN_TOKEN": TOKEN,
        # Long, because a pause of a busy machine must not count as a failure of the store.
        "FLEETLIMIT_STORE_TIMEOUT": "5",
    }


def policy_file(folder: Path, limit: str) -> str:
    path = folder / "policies.yaml"
    path.write_text(
        f"version: 1\npolicies:\n  - {{name: default, key: principal, limits: [{limit}]}}\n"
    )
    return str(path)


@pytest.mark.parametrize("without", VARIANTS.values(), ids=VARIANTS)
async def test_replicas_admit_as_much_as_one(
    tmp_path: Path, valkey: EmbeddedValkey, without: Without
) -> None:
    """Of 600 requests at 2 replicas, 300 at a time, 100 pass; counters and logs agree.

    Requests of the second half that meet a cached denial cost the store nothing.
    """
    policies = policy_file(tmp_path, f"{{rate: {LIMIT}/day}}")
    with contextlib.ExitStack() as stack:
        given = settings(valkey, "fleet", without)
        fleet = [
            stack.enter_context(
                ServeProcess("--policies", policies, settings=given, without=without)
            )
            for _ in range(REPLICAS)
        ]
        for service in fleet:
            await service.ready()
        ports = [service.port for service in fleet] * (REQUESTS // REPLICAS // 2)
        answers = [
            answer
            for _ in range(2)
            for answer in await asyncio.gather(
                *(fetch(port, "/exports", method="POST") for port in ports)
            )
        ]

        assert Counter(answer.status for answer in answers) == {200: LIMIT, 429: REQUESTS - LIMIT}
        assert all("retry-after" in each.headers for each in answers if each.status == 429)
        counted = Counter[str]()
        for service in fleet:
            for outcome in ("allowed", "denied"):
                label = f'outcome="{outcome}"'
                policy = await service.metric(
                    "fleetlimit_decisions_total", 'policy="default"', label
                )
                counted[outcome] += int(policy)
                counted[f"{outcome} in all"] += int(
                    await service.metric("fleetlimit_checks_total", label)
                )
        denied = REQUESTS - LIMIT
        assert counted == {
            "allowed": LIMIT,
            "allowed in all": LIMIT,
            "denied": denied,
            "denied in all": denied,
        }
        await assert_shortcuts_used(fleet, without)
        top = [(await service.admin("/top")).json["denied"] for service in fleet]
        assert sum(each["count"] for denied_here in top for each in denied_here) == denied
        for service in fleet:
            assert await service.stop() == 0
        lines = sum(len(service.logged("request.denied")) for service in fleet)
        suppressed = sum(
            line["suppressed"]
            for service in fleet
            for line in service.logged("request.denied.suppressed")
        )
        assert lines + suppressed == denied


async def assert_shortcuts_used(fleet: Sequence[ServeProcess], without: Without) -> None:
    """Check that the load used the shortcuts that are on, and none that is off."""
    hits, calls, pipelines = [
        sum([await service.metric(name) for service in fleet])
        for name in (
            "fleetlimit_denial_cache_hits_total",
            "fleetlimit_store_batch_size_sum",
            "fleetlimit_store_batch_size_count",
        )
    ]
    assert (hits > 0) is (Shortcut.DENIAL_CACHE not in without)
    assert (calls > pipelines) is (Shortcut.BATCHING not in without)


@pytest.fixture(scope="module", params=list(ALL_OR_NONE.values()), ids=list(ALL_OR_NONE))
async def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedValkey
) -> AsyncIterator[Pair]:
    """Return two replicas with the policies of `PAIR`."""
    without: Without = request.param
    path = tmp_path_factory.mktemp("pair") / "policies.yaml"
    path.write_text(PAIR)
    given = settings(valkey, "pair", without)
    with (
        ServeProcess("--policies", str(path), settings=given, without=without) as here,
        ServeProcess("--policies", str(path), settings=given, without=without) as there,
    ):
        yield await here.ready(), await there.ready()


async def test_reset_reaches_the_other_replicas(pair: Pair) -> None:
    """A caller reset at one replica is admitted at another within a second."""
    here, there = pair
    assert (await there.get("/items/1")).status == 200
    assert (await there.get("/items/1")).status == 429

    reset = await fetch(
        here.admin_port,
        "/reset",
        method="POST",
        headers={"Authorization": f"Bearer {TOKEN}"},
        body=b'{"policy": "items", "client_address": "127.0.0.1"}',
    )

    async def is_admitted() -> bool:
        return (await there.get("/items/1")).status == 200

    assert (reset.status, reset.json) == (200, {"policy": "items", "buckets": 1})
    await eventually_async(is_admitted)


@WITH_ALL_OR_NONE
async def test_lease_of_a_killed_process_expires(
    tmp_path: Path, valkey: EmbeddedValkey, without: Without
) -> None:
    """The concurrency slot of a killed process is free after the lease time."""
    policies = policy_file(tmp_path, "{concurrency: 1, lease: 1}")
    given = settings(valkey, "lease", without)
    with (
        ServeProcess("--policies", policies, settings=given, without=without) as killed,
        ServeProcess("--policies", policies, settings=given, without=without) as other,
    ):
        await killed.ready()
        await other.ready()
        reader, writer = await send(killed.port, "/stream?lines=1000")
        await reader.readuntil(b"line 0")
        assert (await other.get("/items/1")).status == 429
        killed.signal(signal.SIGKILL)
        await killed.ended()
        writer.close()

        async def is_admitted() -> bool:
            return (await other.get("/items/1")).status == 200

        await eventually_async(is_admitted)


async def test_concurrency_limit_holds_over_all_replicas(pair: Pair) -> None:
    """A stream keeps its slot until it has ended, at any replica."""
    here, there = pair
    reader, writer = await send(here.port, "/stream?lines=3")
    await reader.readuntil(b"\r\n")
    assert (await there.get("/stream?lines=0")).status == 429
    with contextlib.closing(writer):
        await reader.read()

    async def is_admitted() -> bool:
        return (await there.get("/stream?lines=0")).status == 200

    # The slot is released after the last byte was sent, possibly a moment later.
    await eventually_async(is_admitted)

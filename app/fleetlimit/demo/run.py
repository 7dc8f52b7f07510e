"""Run of the demonstration: starts the store and the replicas, sends the requests, cleans up."""

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fleetlimit.demo.display import View, open_view, save_svg
from fleetlimit.demo.load_generator import send_all
from fleetlimit.demo.options import DemoOptions
from fleetlimit.demo.replicas import Replica, run_replicas
from fleetlimit.demo.results import Results
from fleetlimit.demo.scenario import Scenario, make_scenario
from fleetlimit.demo.scrape import read_counters
from fleetlimit.demo.signals import Interrupted, interruptible
from fleetlimit.demo.store_stats import StatsReader, open_stats
from fleetlimit.demo.summary import DemoSummary, ReplicaReport, principal_rows, summarize
from fleetlimit.stores.embedded import EmbeddedValkey

_REFRESH_PER_SECOND = 8
_SIGNAL = 128
"""Added to a signal's number in the exit status, as shells do."""


def run(options: DemoOptions) -> int:
    """Run the demonstration and return the exit status: 0 when the limit holds.

    Raises:
        FleetlimitError: A replica or the store did not start; the message has the next step.
    """
    with open_view(as_json=options.json, requests=options.requests) as view:
        try:
            return 0 if asyncio.run(interruptible(_run(options, view))) else 1
        except Interrupted as stopped:
            view.stage("stopped")
            return _SIGNAL + stopped.signal


async def _run(options: DemoOptions, view: View) -> bool:
    with tempfile.TemporaryDirectory(prefix="fleetlimit-demo-") as folder:
        scenario = make_scenario(
            Path(folder), requests=options.requests, principals=options.principals
        )
        with _store(options.store, view) as url, open_stats(url) as read_stats:
            summary = await _measure(options, scenario, url, read_stats, view)
    view.finish(summary)
    if options.svg is not None:
        save_svg(options.svg, summary)
    return summary.holds


@contextlib.contextmanager
def _store(url: str | None, view: View) -> Iterator[str]:
    if url is not None:
        yield url
        return
    view.stage("starting Valkey")
    with EmbeddedValkey() as server:
        yield server.url


async def _measure(
    options: DemoOptions, scenario: Scenario, url: str, read_stats: StatsReader, view: View
) -> DemoSummary:
    # Fails before the replicas start if the store is unavailable.
    read_stats()
    async with run_replicas(options.replicas, _settings(scenario, url), view.stage) as replicas:
        results = Results(
            [replica.name for replica in replicas], [caller.name for caller in scenario.callers]
        )
        view.stage(f"sending {options.requests:,} requests")
        before = read_stats()
        async with _refreshing(view, results, scenario, before.store_now_us):
            await send_all(
                scenario.schedule(options.requests, options.replicas),
                {replica.name: replica.port for replica in replicas},
                results,
            )
        after = read_stats()
        counters = await read_counters({each.name: each.admin_port for each in replicas})
    # The replicas have stopped, so their logs are complete.
    return summarize(scenario.callers, results, before, after, _reports(replicas, counters))


def _reports(
    replicas: list[Replica], counters: dict[str, tuple[int, int]]
) -> dict[str, ReplicaReport]:
    return {each.name: ReplicaReport(*counters[each.name], each.denied_in_log) for each in replicas}


def _settings(scenario: Scenario, url: str) -> dict[str, str]:
    return {
        "FLEETLIMIT_STORE": url,
        "FLEETLIMIT_POLICIES": str(scenario.policy_file),
        # Each run has its own buckets, also in a store with other users.
        "FLEETLIMIT_KEY_PREFIX": f"fldemo-{secrets.token_hex(4)}",
        "FLEETLIMIT_KEY_SECRET": secrets.token_hex(16),
        # Long timeouts: on one busy machine a late reply does not mean that the store failed.
        "FLEETLIMIT_STORE_TIMEOUT": "2",
        "FLEETLIMIT_STORE_CONNECT_TIMEOUT": "2",
        "FLEETLIMIT_SHUTDOWN_SECONDS": "2",
    }


@contextlib.asynccontextmanager
async def _refreshing(
    view: View, results: Results, scenario: Scenario, start_us: int
) -> AsyncIterator[None]:
    """Update the view while the block runs, and once after it."""
    started_ns = time.monotonic_ns()

    def update() -> None:
        end_us = start_us + (time.monotonic_ns() - started_ns) // 1_000
        view.update(results, principal_rows(scenario.callers, results, start_us, end_us))

    async def refresh() -> None:
        while True:
            update()
            await asyncio.sleep(1 / _REFRESH_PER_SECOND)

    refreshing = asyncio.get_running_loop().create_task(refresh())
    try:
        yield
    finally:
        refreshing.cancel()
        await asyncio.wait({refreshing})
        update()

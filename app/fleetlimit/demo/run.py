"""Conducts the demonstration: store, replicas, requests, verdict; nothing of it stays behind."""

import asyncio
import contextlib
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fleetlimit.demo.command import Options
from fleetlimit.demo.display import View, open_view, save_picture
from fleetlimit.demo.load_generator import send_all
from fleetlimit.demo.replicas import Replica, fleet
from fleetlimit.demo.results import Tally
from fleetlimit.demo.scenario import Scene, set_scene
from fleetlimit.demo.scrape import read_counters
from fleetlimit.demo.signals import Interrupted, interruptible
from fleetlimit.demo.store_stats import Meter, open_meter
from fleetlimit.demo.verdict import Told, Verdict, judge, principal_rows
from fleetlimit.stores.embedded import EmbeddedValkey

_REFRESH_PER_SECOND = 8
_SIGNAL = 128
"""Added to a signal's number in the exit status of what it ended, as shells do."""


def run(options: Options) -> int:
    """Run the demonstration and return the exit status: 0 when the limit holds.

    Raises:
        FleetlimitError: Something did not start; the message says what to do.
    """
    with open_view(as_json=options.json, requests=options.requests) as view:
        try:
            return 0 if asyncio.run(interruptible(_demonstrate(options, view))) else 1
        except Interrupted as stopped:
            view.tell("stopped")
            return _SIGNAL + stopped.signal


async def _demonstrate(options: Options, view: View) -> bool:
    with tempfile.TemporaryDirectory(prefix="fleetlimit-demo-") as folder:
        scene = set_scene(Path(folder), requests=options.requests, principals=options.principals)
        with _store(options.store, view) as url, open_meter(url) as meter:
            verdict = await _measure(options, scene, url, meter, view)
    view.end(verdict)
    if options.svg is not None:
        save_picture(options.svg, verdict)
    return verdict.holds


@contextlib.contextmanager
def _store(url: str | None, view: View) -> Iterator[str]:
    if url is not None:
        yield url
        return
    view.tell("starting Valkey")
    with EmbeddedValkey() as server:
        yield server.url


async def _measure(options: Options, scene: Scene, url: str, meter: Meter, view: View) -> Verdict:
    # Read here too, so that a store that is away is known before anything else is started.
    meter()
    async with fleet(options.replicas, _settings(scene, url), view.tell) as replicas:
        tally = Tally(
            [replica.name for replica in replicas], [caller.name for caller in scene.callers]
        )
        view.tell(f"sending {options.requests:,} requests")
        before = meter()
        async with _shown(view, tally, scene, before.now_us):
            await send_all(
                scene.schedule(options.requests, options.replicas),
                {replica.name: replica.port for replica in replicas},
                tally,
            )
        after = meter()
        counters = await read_counters({each.name: each.admin_port for each in replicas})
    # The replicas are gone now, and their logs complete.
    return judge(scene.callers, tally, before, after, _told(replicas, counters))


def _told(replicas: list[Replica], counters: dict[str, tuple[int, int]]) -> dict[str, Told]:
    return {each.name: Told(*counters[each.name], each.denied_in_log) for each in replicas}


def _settings(scene: Scene, url: str) -> dict[str, str]:
    return {
        "FLEETLIMIT_STORE": url,
        "FLEETLIMIT_POLICIES": str(scene.policies),
        # Buckets of its own for each run, also in a store that others use.
        "FLEETLIMIT_KEY_PREFIX": f"fldemo-{secrets.token_hex(4)}",
        "FLEETLIMIT_KEY_SECRET": secrets.token_hex(16),
        # One machine does it all here, and a busy one is not a store that is away.
        "FLEETLIMIT_STORE_TIMEOUT": "2",
        "FLEETLIMIT_STORE_CONNECT_TIMEOUT": "2",
        "FLEETLIMIT_SHUTDOWN_SECONDS": "2",
    }


@contextlib.asynccontextmanager
async def _shown(view: View, tally: Tally, scene: Scene, start_us: int) -> AsyncIterator[None]:
    started = time.monotonic_ns()

    def show() -> None:
        end_us = start_us + (time.monotonic_ns() - started) // 1_000
        view.show(tally, principal_rows(scene.callers, tally, start_us, end_us))

    async def refresh() -> None:
        while True:
            show()
            await asyncio.sleep(1 / _REFRESH_PER_SECOND)

    showing = asyncio.get_running_loop().create_task(refresh())
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        show()

"""Scenes without a load: bytes in the store, memory of a replica, start-up time."""

import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from typing import Final

from harness.effort import Effort
from harness.lineup import BARE, FLOOR, MIDDLEWARE, SERVED, THREE, Company, Contender
from harness.load import Load, send
from harness.requests import PRINCIPALS, spread
from harness.results import Scene
from harness.server import PAGE_BYTES, Server
from harness.store import Store
from harness.throughput import PLENTY, turns

_CALLERS: Final = 100
_MIB: Final = 2**20
_IMPORT_LINE: Final = re.compile(r"import time: +(\d+) \| +\d+ \| *([\w.]+)")
_SHOWN_IMPORTS: Final = 6
_SERVE: Final = "import fleetlimit.cli, fleetlimit.server.runner"
"""The imports of `fleetlimit serve`; each command imports its modules when it runs."""
_IMPORTED: Final = {
    "Python": (),
    "FastAPI, uvicorn": ("fastapi", "uvicorn"),
    "redis-py": ("redis.asyncio",),
    "other libraries": ("prometheus_client", "pydantic_settings", "structlog", "typer", "yaml"),
    "Fleetlimit": ("fleetlimit.cli", "fleetlimit.server.runner"),
}
"""Modules whose memory is measured, one group after the other in one process."""
_IMPORT_ALL: Final = """
import importlib, sys
for group in sys.argv[1:]:
    for module in group.split():
        importlib.import_module(module)
    print(open("/proc/self/statm").read().split()[1])
"""


def bytes_per_principal(store: Store, effort: Effort, company: Company) -> Scene:
    """Measure a bucket's size in the store after one request of its caller, and after many."""
    scene = Scene("keys", "MEMORY USAGE in the store for each principal and limit, bytes")
    many = effort.requests_each
    for contender in (MIDDLEWARE, THREE, FLOOR, *company.peers):
        # The limits are so high that no bucket is full again before its size is read. A minute
        # divided by the last one is no whole number of microseconds, which is a longer state.
        for limit, each in ((2 * many, 1), (2 * many, many), (21 * many, many)):
            size = _bucket_bytes(store, contender, limit, each)
            scene.add(contender.name, {f"{limit:,}/minute, {each} requests": size})
    return scene


def _bucket_bytes(store: Store, contender: Contender, limit: int, each: int) -> float:
    store.clear()
    with Server(contender, store.url, limit=limit, principals=_CALLERS) as server:
        # More than one connection would send more requests than `most`.
        send(Load(server.port, spread(_CALLERS), connections=1, most=_CALLERS * each))
        return store.bytes_per_bucket()


def resident(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Measure the resident memory of a replica after few and after many principals.

    Also that of the app without a limiter, and what each group of imports adds to a process.
    """
    scene = Scene("resident", "resident memory of one replica, MiB")
    for contender in (BARE, SERVED):
        store.clear()
        with Server(contender, store.url, limit=PLENTY, principals=0) as server:
            scene.add(contender.name, {"at start": server.resident_bytes / _MIB})
    for group, mebibytes in _import_mebibytes().items():
        scene.add(f"imports: {group}", {"at start": mebibytes})
    store.clear()
    # Principals by header: a file of a million API keys would be most of the memory.
    with Server(MIDDLEWARE, store.url, limit=PLENTY, principals=0) as server:
        requests = spread(effort.many)
        before = server.resident_bytes
        send(Load(server.port, requests, most=effort.few))
        few = server.resident_bytes
        send(Load(server.port, requests, most=effort.many - effort.few))
        many = server.resident_bytes
    scene.add(
        MIDDLEWARE.name,
        {
            "at start": before / _MIB,
            "few": few / _MIB,
            "many": many / _MIB,
            "of few": many / few,
            "principals": effort.many,
        },
    )
    return scene


def starts(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Measure the start of each server, and separately the imports of `fleetlimit serve`."""
    scene = Scene("start", "seconds from start until connections are accepted")
    for contender in turns((BARE, MIDDLEWARE, SERVED), effort.rounds):
        store.clear()
        with Server(contender, store.url, limit=PLENTY, principals=PRINCIPALS) as server:
            scene.add(contender.name, {"seconds": server.start_seconds})
    for _ in range(effort.rounds):
        seconds_by_package = _import_seconds()
        scene.add("of it, all imports", {"seconds": seconds_by_package.total()})
        for package, seconds in seconds_by_package.most_common(_SHOWN_IMPORTS):
            scene.add(f"of it, import of {package}", {"seconds": seconds})
    return scene


def _import_seconds() -> Counter[str]:
    """Return each package's own import time in seconds, without the packages it imports."""
    output = subprocess.run(  # noqa: S603 - the command is ours
        [sys.executable, "-X", "importtime", "-c", _SERVE],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    found: Counter[str] = Counter()
    for micros, module in _IMPORT_LINE.findall(output):
        found[module.partition(".")[0]] += int(micros) / 1e6  # type: ignore[assignment]  # seconds
    return found


def _import_mebibytes() -> dict[str, float]:
    """Return what each group of imports adds to the resident memory of a process, in MiB."""
    groups = map(" ".join, _IMPORTED.values())
    output = subprocess.run(  # noqa: S603 - as above
        [sys.executable, "-c", _IMPORT_ALL, *groups], check=True, capture_output=True, text=True
    ).stdout
    steps = pairwise([0, *map(int, output.split())])
    return {
        group: PAGE_BYTES * (after - before) / _MIB
        for group, (before, after) in zip(_IMPORTED, steps, strict=True)
    }

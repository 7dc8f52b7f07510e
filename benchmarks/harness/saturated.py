"""Store saturation: prepared script calls, sent as fast as the store answers."""

import itertools
import socket
import time
from typing import Any, Final

import hiredis

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import rate_quota
from fleetlimit.stores.redis.calendar_windows import CalendarWindows
from fleetlimit.stores.redis.charge_encoding import encode_charges
from fleetlimit.stores.redis.scripts import load_script
from harness.effort import Effort
from harness.results import Figures
from harness.store import Store

_CONNECTIONS: Final = 4
_CALLERS: Final = 10_000
_CHUNK: Final = 2**16


def saturated(store: Store, effort: Effort, *, joined: int, hot: bool = False) -> Figures:
    """Return the figures of a saturated store.

    Args:
        store: The store; its keys and statistics are cleared first.
        effort: Duration.
        joined: Checks in one script call.
        hot: Whether all checks are on one bucket.
    """
    store.clear()
    acquire = load_script("acquire", batchable=True)
    store.client.script_load(acquire.text)
    commands = itertools.cycle(_commands(acquire.sha, joined, 1 if hot else _CALLERS))
    connections = []
    for _ in range(_CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", store.port))
        connection.sendall(next(commands))
        connections.append((connection, hiredis.Reader()))
    store.work()
    began, calls = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + effort.seconds:
        for connection, reader in connections:
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(_CHUNK))
            if isinstance(reply, Exception):
                raise reply
            calls += 1
            connection.sendall(next(commands))
    work = store.work()
    for connection, _ in connections:
        connection.close()
    checks, seconds = calls * joined, now - began
    return {
        "checks/s": checks / seconds,
        "store us/check": 1e6 * work.busy_seconds / checks,
        "script us/check": work.script_us / joined,
        "bytes/check": work.net_bytes / checks,
        "store busy": work.busy_seconds / seconds,
    }


def _commands(sha: str, joined: int, callers: int) -> list[bytes]:
    quota = rate_quota("60000000/minute")
    _, (word,), _ = encode_charges([Charge("", quota, 1)], CalendarWindows(), dry_run=False)
    names = itertools.cycle(f"fl2:{{caller{number:010}}}:exports:tb60" for number in range(callers))
    commands = []
    for _ in range(max(1, callers // joined)):
        keys = list(itertools.islice(names, joined))
        command: list[Any] = ["EVALSHA", sha, joined, *keys, 0, *[word] * joined]
        commands.append(hiredis.pack_command(tuple(command)))
    return commands

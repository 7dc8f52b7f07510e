"""How many checks one store can decide: commands made beforehand, sent as fast as it answers."""

import itertools
import socket
import time
from typing import Any, Final

import hiredis

from fleetlimit.core.charge import Charge
from fleetlimit.core.quota import rate_quota
from fleetlimit.stores.redis.scripts import load_script
from fleetlimit.stores.redis.store import _encode_charges
from harness.effort import Effort
from harness.results import Figures
from harness.store import Store

_CONNECTIONS: Final = 4
_CALLERS: Final = 10_000
_CHUNK: Final = 2**16


def saturated(store: Store, effort: Effort, *, joined: int, hot: bool = False) -> Figures:
    """Keep a store busy.

    Args:
        store: The store, which is cleared.
        effort: For how long.
        joined: Checks in one script call.
        hot: Whether all are of one caller.
    """
    store.clear()
    take = load_script("take", batchable=True)
    store.client.script_load(take.text)
    commands = itertools.cycle(_commands(take.sha, joined, 1 if hot else _CALLERS))
    lines = []
    for _ in range(_CONNECTIONS):
        line = socket.create_connection(("127.0.0.1", store.port))
        line.sendall(next(commands))
        lines.append((line, hiredis.Reader()))
    store.work()
    began, calls = time.perf_counter(), 0
    while (now := time.perf_counter()) < began + effort.seconds:
        for line, reader in lines:
            while (answer := reader.gets()) is False:
                reader.feed(line.recv(_CHUNK))
            if isinstance(answer, Exception):
                raise answer
            calls += 1
            line.sendall(next(commands))
    work = store.work()
    for line, _ in lines:
        line.close()
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
    (word,) = _encode_charges([Charge("", quota, 1)], commit=True)
    names = itertools.cycle(f"fl1:{{caller{number:010}}}:exports:tb60" for number in range(callers))
    commands = []
    for _ in range(max(1, callers // joined)):
        keys = list(itertools.islice(names, joined))
        told: list[Any] = ["EVALSHA", sha, joined, *keys, 0, *[word] * joined]
        commands.append(hiredis.pack_command(tuple(told)))
    return commands

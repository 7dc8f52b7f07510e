"""The memory that a replica holds after some principals, and after a great many."""

from typing import Final

from harness.effort import Effort
from harness.lineup import MIDDLEWARE, Company
from harness.load import Load, send
from harness.requests import spread
from harness.results import Scene
from harness.served import PLENTY
from harness.server import Server
from harness.store import Store

_MIB: Final = 2**20


def resident(store: Store, effort: Effort, company: Company) -> Scene:  # noqa: ARG001 - as all scenes
    """Send one request of each principal, and look twice."""
    scene = Scene("resident", "resident memory of one replica, MiB")
    store.clear()
    # Callers by header: a file of a million keys would be most of the memory.
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

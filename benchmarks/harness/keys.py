"""What the store keeps for each principal and limit, in bytes."""

from typing import Final

from harness.effort import Effort
from harness.lineup import FLOOR, MIDDLEWARE, THREE, Company, Contender
from harness.load import Load, send
from harness.requests import spread
from harness.results import Scene
from harness.server import Server
from harness.store import Store

_CALLERS: Final = 100


def bytes_per_principal(store: Store, effort: Effort, company: Company) -> Scene:
    """Look at the store after one request of each caller, and after many."""
    scene = Scene("keys", "MEMORY USAGE in the store for each principal and limit, bytes")
    many = effort.asked
    for contender in (MIDDLEWARE, THREE, FLOOR, *company.peers):
        # So high a limit, and so few requests, that what was spent is not back before the look.
        for limit, each in ((2 * many, 1), (2 * many, many), (20 * many, many)):
            used = _used(store, contender, limit, each)
            scene.add(contender.name, {f"{limit:,}/minute, {each} requests": used})
    return scene


def _used(store: Store, contender: Contender, limit: int, each: int) -> float:
    store.clear()
    with Server(contender, store.url, limit=limit, principals=_CALLERS) as server:
        # One connection: exactly as many as asked for.
        send(Load(server.port, spread(_CALLERS), connections=1, most=_CALLERS * each))
        return store.bytes_of_a_bucket()

"""Redis Cluster of three embedded Valkey servers."""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import redis

from fleetlimit.stores.embedded import EmbeddedValkey, free_port
from support.eventually import LOCAL_POLL_S, PATIENCE_SECONDS, eventually

NODES = 3
SLOTS = 16_384
_SPARES: Final = 3
"""Clusters that form at a time: as many as tests use in the time of one."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running Cluster, with its store URL, its servers, and a client of each server."""

    url: str
    nodes: Sequence[EmbeddedValkey]
    links: Sequence[redis.Redis]

    def owner_of(self, slot: int) -> int:
        """Return the index of the server that had this slot when the Cluster was formed."""
        return next(index for index in range(NODES) if slot < SLOTS * (index + 1) // NODES)

    def run(self, index: int, *command: str | int) -> Any:
        """Return a server's reply to a command."""
        return self.links[index].execute_command(*command)  # type: ignore[no-untyped-call]  # untyped driver

    def node_id(self, index: int) -> str:
        """Return the name of a server in the Cluster."""
        return str(self.run(index, "CLUSTER MYID"), "ascii")


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """Form a Cluster of three primaries."""
    with contextlib.ExitStack() as stack:
        # The default bus port, 10,000 above the port, may be above 65,535.
        bus = [free_port() for _ in range(NODES)]
        nodes = [
            stack.enter_context(
                EmbeddedValkey(
                    *("--cluster-enabled", "yes", "--cluster-port", str(port)),
                    *("--cluster-config-file", "nodes.conf"),
                )
            )
            for port in bus
        ]
        links = [stack.enter_context(redis.Redis(port=node.port)) for node in nodes]
        bounds = [SLOTS * place // NODES for place in range(NODES + 1)]
        for epoch, (link, (first, end)) in enumerate(
            zip(links, pairwise(bounds), strict=True), start=1
        ):
            link.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
            link.execute_command("CLUSTER SET-CONFIG-EPOCH", epoch)
        for node, port in zip(nodes[1:], bus[1:], strict=True):
            links[0].execute_command("CLUSTER MEET", "127.0.0.1", node.port, port)
        eventually(
            lambda: all(map(_agrees, links)),
            within=PATIENCE_SECONDS,
            what="the Cluster has formed",
            poll_s=LOCAL_POLL_S,
        )
        yield Cluster(f"redis+cluster://127.0.0.1:{nodes[0].port}", nodes, links)


class SpareClusters:
    """Clusters for tests that break theirs, formed in advance.

    A server of a new Cluster waits for two seconds before it accepts writes.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(_SPARES)
        self._spares: deque[Future[tuple[contextlib.ExitStack, Cluster]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        for spare in self._spares:
            if spare.exception() is None:
                spare.result()[0].close()

    @contextlib.contextmanager
    def take(self) -> Iterator[Cluster]:
        """Yield a Cluster that no other test uses."""
        while len(self._spares) <= _SPARES:
            self._spares.append(self._executor.submit(self._form))
        servers, found = self._spares.popleft().result()
        with servers:
            yield found

    @staticmethod
    def _form() -> tuple[contextlib.ExitStack, Cluster]:
        with contextlib.ExitStack() as stack:
            found = stack.enter_context(cluster())
            return stack.pop_all(), found


@contextlib.contextmanager
def replica_of(found: Cluster, index: int) -> Iterator[EmbeddedValkey]:
    """Add a replica of a server, which replaces it within seconds once it is lost."""
    bus = free_port()
    with (
        EmbeddedValkey(
            *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
            *("--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000"),
        ) as node,
        redis.Redis(port=node.port) as link,
    ):
        for each in range(NODES):
            found.run(each, "CONFIG SET", "cluster-node-timeout", 1_000)
        found.run(0, "CLUSTER MEET", "127.0.0.1", node.port, bus)
        primary = found.node_id(index)

        def follows() -> bool:
            with contextlib.suppress(redis.ResponseError):  # until it knows the primary
                link.execute_command("CLUSTER REPLICATE", primary)
            return bool(link.info("replication").get("master_link_status") == "up")

        eventually(
            follows, within=PATIENCE_SECONDS, what="the replica follows", poll_s=LOCAL_POLL_S
        )
        yield node


def _agrees(link: redis.Redis) -> bool:
    info = link.execute_command("CLUSTER INFO")  # type: ignore[no-untyped-call]  # untyped driver
    known = int(info["cluster_known_nodes"]), int(info["cluster_slots_ok"])
    return info["cluster_state"] == "ok" and known == (NODES, SLOTS)

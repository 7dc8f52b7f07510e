"""Fake Cluster under a limiter: the server of a bucket is the name of its policy."""

from collections.abc import Iterable, Sequence

from fleetlimit.core.charge import Charge
from fleetlimit.core.policy import Policy
from fleetlimit.errors import StoreError
from fleetlimit.limiter.ports import KeysFailed
from fleetlimit.limiter.store_replies import AcquireResult
from support.clock import ManualClock
from support.limiter import Bench, FakeStore


class FakeTopology:
    """Topology in which the server of a bucket is the name of its policy."""

    def __init__(self) -> None:
        self.nodes: set[str] = set()
        self.moved: dict[str, str] = {}

    def node_of(self, key: str) -> str:
        """Return the name of the policy."""
        name = key.split("}:")[1].partition(":")[0]
        return self.moved.get(name, name)


class FakeCluster(FakeStore):
    """Store whose servers fail one by one."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.servers = self.topology = FakeTopology()
        self.lost: dict[str, StoreError] = {}
        self.opened: list[str] = []

    async def open(self, node: str = "") -> None:
        """Reply unless the server is lost."""
        await super().open(node)
        self.opened.append(node)
        self._fail([node])

    async def acquire(self, charges: Sequence[Charge], *, dry_run: bool = False) -> AcquireResult:
        """Decide unless a server is lost."""
        nodes = {each.key: self.servers.node_of(each.key) for each in charges}
        if len(set(nodes.values())) == 1:
            self._fail(nodes.values())
        errors = {key: self.lost[node] for key, node in nodes.items() if node in self.lost}
        if errors:
            raise KeysFailed(errors)
        return await super().acquire(charges, dry_run=dry_run)

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete unless a server is lost."""
        self._fail(map(self.servers.node_of, keys))
        return await super().delete(keys)

    def _fail(self, nodes: Iterable[str]) -> None:
        for node in nodes:
            if node in self.lost:
                raise type(self.lost[node])(str(self.lost[node]), kind=self.lost[node].kind)


class ClusterBench(Bench):
    """Limiter over a Cluster in which each policy has a server."""

    store: FakeCluster

    def __init__(self, *policies: Policy, failures: int = 3) -> None:
        super().__init__(*policies, failures=failures)
        self.store.servers.nodes = {each.name for each in policies} | {"replicas"}

    def make_store(self) -> FakeCluster:
        """Return the store of the limiter."""
        return FakeCluster(self.clock)

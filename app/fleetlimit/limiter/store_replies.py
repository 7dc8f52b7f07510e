"""Replies of a store to the limiter."""

from collections.abc import Mapping
from dataclasses import dataclass

from fleetlimit.core.decision import BucketStatus, Source


@dataclass(slots=True)
class AcquireResult:
    """Reply of a store to `Store.acquire`.

    Args:
        store_now_us: Store time at which the charges were decided.
        statuses: One status for each charge, in order.
        spent: Whether the charges of `ENFORCED_GROUP` were spent.
        store_acquired_at_us_by_charge: Store time at which each charge was decided, if several
            servers decided them; empty otherwise.
        prefetched: Whether the charges were served from a prefetch, which was spent as a whole at
            `store_now_us`.
        source: `PREFETCH` if the check did not wait for the store.
    """

    store_now_us: int
    statuses: tuple[BucketStatus, ...]
    spent: bool
    store_acquired_at_us_by_charge: tuple[int, ...] = ()
    prefetched: bool = False
    source: Source = Source.STORE

    def store_acquired_at_us(self, index: int) -> int:
        """Return when a charge was decided, on the clock of the server that decided it.

        Args:
            index: Index of the charge.
        """
        return (
            self.store_acquired_at_us_by_charge[index]
            if self.store_acquired_at_us_by_charge
            else self.store_now_us
        )


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """Reply of a store to `Store.heartbeat`.

    Args:
        replicas: Replicas whose heartbeat has not expired, this one included.
        epoch: Random value that changes when the store has lost its state.
        server: The server's identifier of its current run; empty if the server has none.
        key_secrets: Fingerprints of the key secrets that the replicas use.
    """

    replicas: int
    epoch: str
    server: str = ""
    key_secrets: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StoredReport:
    """Last usage report of a replica, and the store time at which it arrived."""

    store_reported_at_us: int
    text: str


@dataclass(frozen=True, slots=True)
class AuditReply:
    """Reply of a store to `Store.exchange_reports`.

    Args:
        store_now_us: Store time.
        bounds: Message of the replica that compares the reports to all replicas.
        reports: Report of every replica by its name, for the replica that compares them; empty
            for the other replicas.
    """

    store_now_us: int
    bounds: str
    reports: Mapping[str, StoredReport]

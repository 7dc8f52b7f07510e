"""What observers are told: one frozen event for each thing that happened."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from fleetlimit.core.decision import Decision
from fleetlimit.core.policy import PolicySet
from fleetlimit.errors import StoreError

_log = logging.getLogger("fleetlimit")


class BreakerState(StrEnum):
    """`closed`: calls go to the store. `open`: they do not; a probe runs in the background."""

    CLOSED = "closed"
    OPEN = "open"


class CheckDecided(NamedTuple):
    """One check was decided.

    Args:
        decision: What was decided.
        subject_hash: Keyed hash of the principal or client address.
        anonymous: Whether the subject is an address, because no credential verified.
        tier: The principal's tier, empty without one.
        route: The route's methods and template.
        seconds: How long the decision took.
    """

    decision: Decision
    subject_hash: str
    anonymous: bool
    tier: str
    route: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """A call to the store failed; `operation` is the verb of the store's port."""

    operation: str
    error: StoreError


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """The circuit breaker opened or closed."""

    state: BreakerState


@dataclass(frozen=True, slots=True)
class StoreStateLost:
    """The store came back without the state it had: restarted empty, failed over, or wiped."""


@dataclass(frozen=True, slots=True)
class StoreServerChanged:
    """Another server answers for the store, or the same one was restarted, and it has the state.

    What was spent last may be missing: replication and snapshots are behind by a moment.
    """


@dataclass(frozen=True, slots=True)
class ReplicasCounted:
    """The number of live replicas, as the store last said."""

    replicas: int


@dataclass(frozen=True, slots=True)
class PoliciesLoaded:
    """A set of policies took effect."""

    policies: PolicySet


@dataclass(frozen=True, slots=True)
class PoliciesRejected:
    """A new set of policies was wrong, and the last good one serves on.

    Args:
        errors: Each error as `file:line: what to write instead`.
    """

    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyAudit:
    """What the audit says of a policy since it last did.

    Args:
        policy: The policy's name.
        overshoot: Units let in beyond a limit for the caller with the most, in the last minutes.
        callers: Callers whose sums over all replicas this replica compares.
        intervals: Slots of callers' limits that it compared.
        admitted: Units that this replica let in for callers that are audited.
        permitted: Units that the limits added for them, if this replica compares.
    """

    policy: str
    overshoot: int
    callers: int
    intervals: int
    admitted: int
    permitted: float


@dataclass(frozen=True, slots=True)
class AuditReported:
    """What the audit says, by policy."""

    policies: tuple[PolicyAudit, ...]


@dataclass(frozen=True, slots=True)
class OvershootFound:
    """All replicas together let in more than a limit permits.

    Args:
        policy: The policy's name.
        limit: The limit's name in the policy.
        caller: Hash of whom the bucket is kept per, the one of several with the most.
        units: Units beyond the limit.
    """

    policy: str
    limit: str
    caller: str
    units: int


Event = (
    CheckDecided
    | StoreFailed
    | BreakerChanged
    | StoreStateLost
    | StoreServerChanged
    | ReplicasCounted
    | PoliciesLoaded
    | PoliciesRejected
    | AuditReported
    | OvershootFound
)


class Observer(Protocol):
    """Somebody to tell. An observer never decides, and its failure is logged and ignored."""

    def on_event(self, event: Event) -> None:
        """Take note of an event."""
        ...


class EventDispatcher:
    """Tells each observer of each event.

    Args:
        observers: Whom to tell, in this order.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def emit(self, event: Event) -> None:
        """Tell everybody; one that fails is logged, and the next is told all the same."""
        for observer in self._observers:
            try:
                observer.on_event(event)
            except Exception:  # noqa: BLE001 - whatever it is, it must not reach the request
                _log.exception("observer.failed")

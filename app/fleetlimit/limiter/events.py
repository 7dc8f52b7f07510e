"""Events: an immutable one for everything that observers can react to.

Durations are in seconds.
"""

from dataclasses import dataclass
from enum import StrEnum

from fleetlimit.core.decision import Decision
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.errors import StoreError


class BreakerState(StrEnum):
    """`closed`: calls go to the store. `open`: they fail at once, and a probe runs."""

    CLOSED = "closed"
    OPEN = "open"


@dataclass(slots=True)
class CheckDecided:
    """A check was decided.

    Not `frozen`, because one is made for every request; treat it as immutable.

    Args:
        decision: The decision.
        subject_hash: Hash of the principal or the client address.
        anonymous: Whether the subject is an address, because no credential was valid.
        tier: Tier of the principal; empty for none.
        route: Methods and template of the route.
        seconds: Duration of the check.
    """

    decision: Decision
    subject_hash: str
    anonymous: bool
    tier: str
    route: str
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckCancelled:
    """A request was cancelled while the store decided its check: no decision, perhaps units spent.

    Args:
        policies: Names of the policies.
        subject_hash: Hash of the principal or the client address.
        route: Methods and template of the route.
    """

    policies: tuple[str, ...]
    subject_hash: str
    route: str


class UsageUnreadReason(StrEnum):
    """Reason why the tokens of an answer were not read, and the estimate stays spent.

    `missing`: the answer does not state them. `encoded`: it has a Content-Encoding. `media_type`:
    it is neither JSON nor an event stream. `too_large`: it is too long to be searched.
    `interrupted`: it ended before it stated them all.
    """

    MISSING = "missing"
    ENCODED = "encoded"
    MEDIA_TYPE = "media_type"
    TOO_LARGE = "too_large"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class UsageUnread:
    """The answer of a large language model did not state its tokens, so an estimate stays spent.

    Args:
        policies: Names of the policies.
        reason: Why the tokens were not read.
    """

    policies: tuple[str, ...]
    reason: UsageUnreadReason


@dataclass(frozen=True, slots=True)
class CallerLimitsFailed:
    """A function of the app did not return the limits of a caller.

    The last known limits apply, or else those of the policy.

    Args:
        policy: Name of the policy.
    """

    policy: str


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """A store call failed.

    Args:
        operation: Name of the method of `Store`.
        error: The error.
        node: Address of the server in a Cluster; empty for a store of one server.
    """

    operation: str
    error: StoreError
    node: str = ""


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    """A circuit breaker opened or closed.

    Args:
        state: The new state.
        node: Address of its server in a Cluster; empty for a store of one server.
    """

    state: BreakerState
    node: str = ""


@dataclass(frozen=True, slots=True)
class StoreJoined:
    """This replica uses a store: at the first heartbeat, and when the store has a new state.

    Args:
        state: Random identifier of the state. Replicas that share their limits have the same.
        key_secret: Fingerprint of the key secret. Replicas with another one use other buckets.
    """

    state: str
    key_secret: str


@dataclass(frozen=True, slots=True)
class StoreStateLost:
    """The store returned without its state: it was restarted empty, failed over, or wiped."""


@dataclass(frozen=True, slots=True)
class StoreServerChanged:
    """Another server answers for the store, or it was restarted, and it has the state.

    The last units that were spent may be missing, because replication and snapshots lag.
    """


@dataclass(frozen=True, slots=True)
class ReplicasCounted:
    """The number of live replicas changed."""

    replicas: int


@dataclass(frozen=True, slots=True)
class PoliciesLoaded:
    """A policy set is active."""

    policies: PolicySet


@dataclass(frozen=True, slots=True)
class PoliciesRejected:
    """A new policy set is invalid, and the previous one stays active.

    Args:
        errors: Each error as `file:line: what to write instead`.
    """

    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyAudit:
    """Audit of one policy since its last report.

    Args:
        policy: Name of the policy.
        overshoot: Units admitted above a limit for the worst caller of the last minutes.
        callers: Callers whose sums over all replicas this replica compares.
        intervals: Intervals of callers' limits that this replica compared.
        admitted: Units that this replica admitted for audited callers.
        permitted: Units that the limits added for these callers, if this replica compares.
    """

    policy: str
    overshoot: int
    callers: int
    intervals: int
    admitted: int
    permitted: float


@dataclass(frozen=True, slots=True)
class AuditReported:
    """The audit of each policy."""

    policies: tuple[PolicyAudit, ...]


@dataclass(frozen=True, slots=True)
class OvershootFound:
    """All replicas together admitted more than a limit permits.

    Args:
        policy: Name of the policy.
        limit: Name of the limit within the policy.
        caller: Hash of the key of the bucket; the worst of several.
        units: Units above the limit.
    """

    policy: str
    limit: str
    caller: str
    units: int


@dataclass(frozen=True, slots=True)
class KeySecretsCounted:
    """The number of key secrets of the fleet other than this replica's has changed.

    Args:
        others: Key secrets of other replicas that differ from this replica's.
    """

    others: int


@dataclass(frozen=True, slots=True)
class RouteRewritten:
    """A middleware behind the rate-limit middleware led a request to another route.

    It is emitted once for each pair of routes.

    Args:
        decided: Method and template that the policies were selected by.
        routed: Method and template that the app then served.
    """

    decided: str
    routed: str


Event = (
    CheckDecided
    | CheckCancelled
    | CallerLimitsFailed
    | UsageUnread
    | StoreFailed
    | BreakerChanged
    | StoreJoined
    | StoreStateLost
    | StoreServerChanged
    | ReplicasCounted
    | PoliciesLoaded
    | PoliciesRejected
    | AuditReported
    | OvershootFound
    | KeySecretsCounted
    | RouteRewritten
)

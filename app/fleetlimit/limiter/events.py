"""Events and observers: one immutable event for everything that observers can react to.

Durations are in seconds.
"""

import asyncio
import inspect
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from fleetlimit.core.decision import Decision, Outcome
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.errors import ConfigError, StoreError
from fleetlimit.limiter.app_function import is_async, require_no_generator, require_one_argument
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.failure_log import FailureLog

_EXAMPLE: Final = "def on_event(self, event)"


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


class Observer(Protocol):
    """Receiver of events. It never decides, and its failure is logged and ignored.

    It is not bounded in time: a method that blocks delays all requests of the process. One with an
    attribute `only_outcomes`, a frozenset of `Outcome`, gets the `CheckDecided` of these only.
    """

    def on_event(self, event: Event) -> None:
        """Handle an event. Runs in the event loop and must not block."""
        ...


def check_observers(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    """Return the observers that the app has given.

    Raises:
        ConfigError: They are not a list, or the method of one would not receive events; the message
            says what to write.
    """
    if not isinstance(observers, Iterable):
        raise ConfigError(f"observers={observers!r} is not a list: write observers=[...]")
    checked = tuple(observers)
    for each in checked:
        _check_observer(each)
    return checked


def _check_observer(observer: Any) -> None:
    subject = f"the observer {observer!r}"
    if isinstance(observer, type):
        raise ConfigError(f"{subject} is a class: write {observer.__name__}()")
    on_event = getattr(observer, "on_event", None)
    if not callable(on_event):
        raise ConfigError(f"{subject} has no method `on_event`: write a class with `{_EXAMPLE}`")
    if is_async(on_event):
        raise ConfigError(f"{subject} is async, and nothing awaits it: write `{_EXAMPLE}`")
    require_no_generator(on_event, subject)
    require_one_argument(on_event, subject, _EXAMPLE)


class EventDispatcher:
    """Passes each event to all observers.

    Args:
        observers: The observers, in this order.
        failure_log: Log of the observers' failures; by default one of its own.

    Raises:
        ConfigError: An object is not an observer.
    """

    def __init__(
        self, observers: Sequence[Observer] = (), failure_log: FailureLog | None = None
    ) -> None:
        self._observers: tuple[Observer, ...] = ()
        # Most events are decisions, and most of our own observers have nothing to do then.
        self._of_outcome: dict[Outcome, tuple[Observer, ...]] = {}
        self._failure_log = failure_log or FailureLog(MonotonicClock())
        self._set(check_observers(observers))

    def add(self, observers: Sequence[Observer]) -> None:
        """Pass the events from now on to further observers, each of them once.

        Raises:
            ConfigError: An object is not an observer.
        """
        added = [
            each
            for each in check_observers(observers)
            if not any(each is old for old in self._observers)
        ]
        self._set((*self._observers, *added))

    def _set(self, observers: tuple[Observer, ...]) -> None:
        self._observers = observers
        self._of_outcome = {
            outcome: tuple(each for each in observers if outcome in _outcomes_of(each))
            for outcome in Outcome
        }

    def emit(self, event: Event) -> None:
        """Call all observers; the failure of one is logged and does not affect the others."""
        observers = self._observers
        if type(event) is CheckDecided:
            observers = self._of_outcome[event.decision.outcome]
        for observer in observers:
            try:
                # A wrong one may return something, which compiled code would reject by its type.
                on_event: Callable[[Event], object] = observer.on_event
                returned = on_event(event)
                if returned is not None:
                    _require_no_awaitable(returned)
            # A plain method is never cancelled: a `CancelledError` is a failure of its own.
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it must not fail the request
                self._failure_log.write("observer.failed", error)


def _outcomes_of(observer: Observer) -> Container[Outcome]:
    """Return the outcomes whose decisions an observer gets."""
    # Objects such as mocks have an attribute of any name.
    found: object = getattr(observer, "only_outcomes", None)
    return found if isinstance(found, frozenset) else frozenset(Outcome)


def _require_no_awaitable(returned: object) -> None:
    if inspect.iscoroutine(returned):
        returned.close()
    if inspect.isawaitable(returned):
        raise TypeError(f"on_event returned an awaitable, which nothing awaits: write `{_EXAMPLE}`")

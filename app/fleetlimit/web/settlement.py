"""Settlement: correction of what a request has spent, when its response is known.

A policy with `count` gets the cost back if the status does not count, and one with `usage` the
difference to the tokens that the answer states. Until then the whole cost is spent, so concurrent
requests never exceed a limit.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from anyio import CancelScope
from starlette.requests import ClientDisconnect
from starlette.types import Message

from fleetlimit.core.counted_statuses import CountedStatuses
from fleetlimit.core.decision import ALLOWED, Decision
from fleetlimit.core.policy import Policy
from fleetlimit.core.usage import Provider, Usage
from fleetlimit.limiter.events import Event, UsageUnread, UsageUnreadReason
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.request_maximum import is_json
from fleetlimit.web.usage_reader import UsageReader

ADD_MIDDLEWARE: Final = (
    "write app.add_middleware(RateLimitMiddleware), and FastAPI(lifespan=Fleetlimit(...))"
)
"""What to write for a cost that the response corrects."""
_EVENT_STREAM: Final = b"text/event-stream"
_ENDS: Final = frozenset(
    {"http.response.body", "http.response.pathsend", "websocket.http.response.body"}
)


@dataclass(frozen=True, slots=True)
class SettledCost:
    """Cost of a request that its response corrects.

    Args:
        policy: The policy.
        index: Index of the cost among those of the request.
        usage: Format of the answer that states the cost; None for a cost that is known.
    """

    policy: Policy
    index: int
    usage: Usage | None

    @property
    def reason(self) -> str:
        """What of the response corrects the cost, for an error message."""
        if self.usage is None:
            return "counts by the status of the response"
        return "reads its cost from the answer"

    def counts(self, status: int) -> bool:
        """Return whether a response of this status counts."""
        count: CountedStatuses | None = self.policy.count
        if count is None:
            # A failed request has no answer that could state its cost.
            return self.usage is None or status < HTTPStatus.BAD_REQUEST
        return status in count


def spent_costs(settled: Sequence[SettledCost], decision: Decision) -> list[SettledCost]:
    """Return the costs that were spent: none of a policy that is off, or that exempts the caller.

    Args:
        settled: Costs that the response corrects.
        decision: Decision on the request.
    """
    spent = {each.policy for each in decision.results if each.outcome is ALLOWED}
    return [each for each in settled if each.policy.name in spent]


@dataclass(frozen=True, slots=True)
class _PendingCosts:
    """Costs of a reservation that are not corrected yet.

    Args:
        reservation: What was spent.
        settled: The costs.
    """

    reservation: Reservation
    settled: Sequence[SettledCost]


class Settlement:
    """Corrections of the costs of one request.

    Args:
        emit: Receives an event if an answer does not state its tokens.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        # Whether the costs are corrected by the message that is sent.
        self.is_up_to_date = False
        self._pending: list[_PendingCosts] = []
        self._status: int | None = None
        self._readers: dict[Provider, UsageReader] = {}
        self._unread: UsageUnreadReason | None = None

    def add(self, reservation: Reservation, settled: Sequence[SettledCost]) -> None:
        """Correct costs of a reservation when the response is known."""
        self._pending.append(_PendingCosts(reservation, settled))

    async def before_send(self, message: Message) -> None:
        """Correct the costs as far as the message states them.

        It runs before the message is sent, so that the client's next request finds the correction.

        Args:
            message: Message that the app sends.
        """
        kind = message["type"]
        if self._status is None:
            status = _status_of(message)
            if status is not None:
                await self._on_status(status, message.get("headers", ()))
        elif self._pending and kind in _ENDS:
            for reader in self._readers.values():
                reader.feed(message.get("body", b""))
            if not message.get("more_body"):
                await self._settle_usage(UsageUnreadReason.MISSING)

    async def end(self, error: BaseException | None) -> None:
        """Correct the costs of a request that the app has ended, whether or not it has answered.

        A request without a response, such as that of a client that has disconnected, keeps its
        cost.

        Args:
            error: Exception that the app has raised; a server answers it with 500.
        """
        if not self._pending:
            return
        # Shielded: in a cancelled request every await would raise before the costs are corrected.
        with CancelScope(shield=True):
            if self._status is None and _becomes_500(error):
                await self._on_status(HTTPStatus.INTERNAL_SERVER_ERROR, ())
            await self._settle_usage(UsageUnreadReason.INTERRUPTED)

    async def _on_status(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._status = status
        pending, self._pending = self._pending, []
        for costs in pending:
            refunded = {each.policy.name: 0 for each in costs.settled if not each.counts(status)}
            if refunded:
                await costs.reservation.commit(refunded)
            answered = [each for each in costs.settled if each.usage and each.counts(status)]
            if answered:
                self._pending.append(_PendingCosts(costs.reservation, answered))
        if self._pending:
            self._start_reading({name.lower(): value for name, value in headers})

    def _start_reading(self, headers: Mapping[bytes, bytes]) -> None:
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        events = media_type == _EVENT_STREAM
        if headers.get(b"content-encoding", b"identity") != b"identity":
            self._unread = UsageUnreadReason.ENCODED
        elif not events and not is_json(media_type):
            self._unread = UsageUnreadReason.MEDIA_TYPE
        else:
            providers = {
                each.usage.provider
                for costs in self._pending
                for each in costs.settled
                if each.usage is not None
            }
            self._readers = {each: UsageReader(each, events=events) for each in providers}

    async def _settle_usage(self, missing: UsageUnreadReason) -> None:
        """Correct the costs to the tokens of the answer.

        Args:
            missing: Reason for the event if the answer has not stated all its tokens.
        """
        pending, self._pending = self._pending, []
        unread: dict[UsageUnreadReason, list[str]] = {}
        for costs in pending:
            actual: dict[str, int] = {}
            for each in costs.settled:
                if each.usage is None:
                    # The request has no response, so its status is not known.
                    continue
                name, reader = each.policy.name, self._readers.get(each.usage.provider)
                if reader is not None and reader.is_complete and reader.tokens is not None:
                    actual[name] = reader.tokens
                    continue
                reason = self._unread or missing
                if reader is not None and reader.is_too_large:
                    reason = UsageUnreadReason.TOO_LARGE
                unread.setdefault(reason, []).append(name)
                if reader is not None and reader.tokens is not None:
                    # What has been stated so far is the least that was spent.
                    actual[name] = max(reader.tokens, costs.reservation.spent_cost(name))
            if actual:
                await costs.reservation.commit(actual)
        for reason, policies in unread.items():
            self._emit(UsageUnread(tuple(policies), reason))


def _becomes_500(error: BaseException | None) -> bool:
    """Return whether a server answers with 500 because the app has raised an exception."""
    return isinstance(error, Exception) and not isinstance(error, ClientDisconnect)


def _status_of(message: Message) -> int | None:
    """Return the status that a message states; None for one that states none.

    A handshake has the status 101 if it is accepted, and a server turns a close before that into
    403.
    """
    kind = message["type"]
    if kind in {"http.response.start", "websocket.http.response.start"}:
        status: Any = message["status"]
        return int(status)
    if kind == "websocket.accept":
        return HTTPStatus.SWITCHING_PROTOCOLS
    return HTTPStatus.FORBIDDEN if kind == "websocket.close" else None

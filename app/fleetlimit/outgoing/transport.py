"""Transport of httpx and its like that limits the calls of a client."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from fleetlimit.errors import ConfigError
from fleetlimit.limiter.ports import Clock
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.outgoing.limits import (
    DEFAULT_MAX_PAUSE_S,
    CallerOfRequest,
    CallNotSent,
    CostOfRequest,
    OutgoingLimits,
)
from fleetlimit.web.manual_checks import DEFAULT_WAIT_S, PolicyRef, Timeout
from fleetlimit.web.manual_limiter import ManualLimiter

Release = Callable[[], Coroutine[Any, Any, None]]


class ReleasingAsyncStream:
    """Body of an answer that releases concurrency units when it is closed."""

    def __init__(self, stream: Any, release: Release) -> None:
        self._stream = stream
        self._release = release

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part

    async def aclose(self) -> None:
        """Close the body."""
        try:
            await self._stream.aclose()
        finally:
            await self._release()


class ReleasingStream:
    """The same for a client that is not async."""

    def __init__(self, stream: Any, release: Callable[[], object]) -> None:
        self._stream = stream
        self._release = release

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream

    def close(self) -> None:
        """Close the body."""
        try:
            self._stream.close()
        finally:
            self._release()


@dataclass(frozen=True, slots=True)
class Library:
    """Classes of an HTTP client library.

    Args:
        timeout_error: Error of a call that was not sent, of a message, a request and the seconds to
            wait.
        async_transport: Transport of async clients.
        sync_transport: Transport of other clients.
        async_stream: Body that releases units, for async clients.
        sync_stream: The same for other clients.
    """

    timeout_error: Callable[[str, Any, float], Exception]
    async_transport: Callable[[], Any]
    sync_transport: Callable[[], Any]
    async_stream: Callable[[Any, Release], Any]
    sync_stream: Callable[[Any, Callable[[], object]], Any]


class LimitedTransport:
    """Transport that limits calls, for async clients and others.

    Args:
        transport: Transport that sends the calls; by default one of the library.
        limits: The limiter, such as a `Fleetlimit`; it must run.
        policy: Policy that each call spends from, or several.
        principal: Caller of a policy with the key `principal`, or a function of the request; by
            default the host of the request, so that each host has its own limit. A policy with the
            key `global` limits all hosts together.
        cost: Cost of a call, or a function of the request that returns it.
        timeout: Seconds, or a `timedelta`, that a call waits at most for units and for the time
            that the host has stated; None for any time.
        max_pause: Longest time that an answer can stop further calls to its host, as seconds or a
            `timedelta`.
        clock: Monotonic clock of the waits for hosts, for tests.

    Raises:
        ConfigError: An argument is invalid; the message says what to write.
    """

    library: ClassVar[Library]

    def __init__(
        self,
        transport: Any = None,
        limits: ManualLimiter | None = None,
        *,
        policy: PolicyRef | Sequence[PolicyRef] = (),
        principal: CallerOfRequest = None,
        cost: CostOfRequest = None,
        timeout: Timeout = DEFAULT_WAIT_S,
        max_pause: float | timedelta = DEFAULT_MAX_PAUSE_S,
        clock: Clock | None = None,
    ) -> None:
        if limits is None:
            raise ConfigError("the transport has no limiter: write limits=Fleetlimit(...), too")
        if isinstance(transport, ManualLimiter) or not (
            transport is None
            or hasattr(transport, "handle_request")
            or hasattr(transport, "handle_async_request")
        ):
            raise ConfigError(
                f"{transport!r} is no transport: write RateLimitTransport(None, limits, "
                'policy="...")'
            )
        many = isinstance(policy, Sequence) and not isinstance(policy, str)
        policies: Sequence[Any] = tuple(policy) if many else (policy,)  # type: ignore[arg-type]  # many
        if not policies:
            raise ConfigError('the transport has no policy: write policy="..."')
        self._transport = transport
        self._limits = OutgoingLimits(
            limits,
            policies,
            principal=principal,
            cost=cost,
            timeout=timeout,
            max_pause=max_pause,
            clock=clock,
        )

    async def handle_async_request(self, request: Any) -> Any:
        """Wait until the limits admit the request, and send it."""
        send = self._sender("handle_async_request", self.library.async_transport)
        reservation = await self._before(request)
        try:
            response = await send(request)
        except BaseException:
            await reservation.release()
            raise
        self._after(request, response)
        if response.is_closed:
            await reservation.release()
        elif reservation.holds_leases:
            response.stream = self.library.async_stream(response.stream, reservation.release)
        return response

    def handle_request(self, request: Any) -> Any:
        """Wait until the limits admit the request, and send it; blocks."""
        send = self._sender("handle_request", self.library.sync_transport)
        reservation = self._limits.run(lambda: self._before(request))

        def release() -> None:
            self._limits.run(reservation.release)

        try:
            response = send(request)
        except BaseException:
            if reservation.holds_leases:
                release()
            raise
        self._after(request, response)
        if reservation.holds_leases:
            if response.is_closed:
                release()
            else:
                response.stream = self.library.sync_stream(response.stream, release)
        return response

    def _sender(self, method: str, make: Callable[[], Any]) -> Callable[[Any], Any]:
        if self._transport is None:
            self._transport = make()
        found: Callable[[Any], Any] | None = getattr(self._transport, method, None)
        if found is None:
            kind = "an async client" if "async" in method else "a client that is not async"
            raise ConfigError(f"{self._transport!r} is no transport of {kind}: write another one")
        return found

    async def _before(self, request: Any) -> Reservation:
        try:
            return await self._limits.before(request.url.host, request)
        except CallNotSent as error:
            cause = error.__cause__
            raise self.library.timeout_error(str(error), request, error.retry_after) from cause

    def _after(self, request: Any, response: Any) -> None:
        fields = {name.lower(): value for name, value in response.headers.items()}
        self._limits.after(request.url.host, response.status_code, fields)

    async def aclose(self) -> None:
        """Close the transport that sends the calls."""
        if hasattr(self._transport, "aclose"):
            await self._transport.aclose()

    def close(self) -> None:
        """Close the transport that sends the calls."""
        if hasattr(self._transport, "close"):
            self._transport.close()

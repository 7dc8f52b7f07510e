"""Limits of outgoing calls with httpx2: `httpx2.AsyncClient(transport=RateLimitTransport(...))`."""

try:
    import httpx2
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise ModuleNotFoundError(
        "fleetlimit.httpx2 needs httpx2: pip install httpx2", name="httpx2"
    ) from error

from fleetlimit.outgoing.transport import (
    Library,
    LimitedTransport,
    ReleasingAsyncStream,
    ReleasingStream,
)


class RateLimitTimeout(httpx2.TimeoutException):
    """A call was not sent: it would have had to wait longer than `timeout`.

    Args:
        message: The reason.
        request: The request.
        retry_after: Seconds after which it may be sent.
    """

    def __init__(self, message: str, request: httpx2.Request, retry_after: float) -> None:
        super().__init__(message, request=request)
        self.retry_after = retry_after


class _AsyncStream(ReleasingAsyncStream, httpx2.AsyncByteStream):
    pass


class _Stream(ReleasingStream, httpx2.SyncByteStream):
    pass


class RateLimitTransport(LimitedTransport, httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Transport of httpx2 that limits calls; its arguments are those of `LimitedTransport`."""

    library = Library(
        RateLimitTimeout, httpx2.AsyncHTTPTransport, httpx2.HTTPTransport, _AsyncStream, _Stream
    )

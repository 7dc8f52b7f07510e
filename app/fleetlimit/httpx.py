"""Limits of outgoing calls with httpx: `httpx.AsyncClient(transport=RateLimitTransport(...))`."""

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(
        "fleetlimit.httpx needs httpx: pip install httpx", name="httpx"
    ) from error

from fleetlimit.outgoing.transport import (
    Library,
    LimitedTransport,
    ReleasingAsyncStream,
    ReleasingStream,
)


class RateLimitTimeout(httpx.TimeoutException):
    """A call was not sent: it would have had to wait longer than `timeout`.

    Args:
        message: The reason.
        request: The request.
        retry_after: Seconds after which it may be sent.
    """

    def __init__(self, message: str, request: httpx.Request, retry_after: float) -> None:
        super().__init__(message, request=request)
        self.retry_after = retry_after


class _AsyncStream(ReleasingAsyncStream, httpx.AsyncByteStream):
    pass


class _Stream(ReleasingStream, httpx.SyncByteStream):
    pass


class RateLimitTransport(LimitedTransport, httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Transport of httpx that limits calls; its arguments are those of `LimitedTransport`."""

    library = Library(
        RateLimitTimeout, httpx.AsyncHTTPTransport, httpx.HTTPTransport, _AsyncStream, _Stream
    )

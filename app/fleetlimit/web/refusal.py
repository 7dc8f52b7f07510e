"""A response that turns a request away, ready to be sent."""

from collections.abc import Iterable
from functools import cached_property, lru_cache

from fleetlimit.core.headers import Headers

RawHeaders = list[tuple[bytes, bytes]]
"""Header fields as ASGI has them."""


def raw(fields: Iterable[tuple[str, str]]) -> RawHeaders:
    """Return header fields as ASGI has them."""
    return [_raw(each) for each in fields]


def merged(theirs: Iterable[tuple[bytes, bytes]], ours: RawHeaders) -> RawHeaders:
    """Return an app's fields and ours, in place of those of the same names."""
    names = dict(ours)
    return [*[each for each in theirs if each[0] not in names], *ours]


@lru_cache(1_024)
def _raw(field: tuple[str, str]) -> tuple[bytes, bytes]:
    name, value = field
    return name.lower().encode(), value.encode("latin-1")


class Refusal:
    """A response that turns a request away.

    Args:
        status: Its status.
        headers: Its headers.
        body: Its body.
        tells_limits: Whether the limits' fields are among the headers.
    """

    def __init__(
        self, status: int, headers: Headers, body: bytes, *, tells_limits: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.tells_limits = tells_limits

    @cached_property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI sends them."""
        return raw(self.headers)

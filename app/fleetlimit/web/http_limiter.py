"""The HTTP side of a limiter: identity of the caller, and the headers and rejections it sends."""

import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from fleetlimit.core.decision import ALLOWED, Decision
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Identity
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.ratelimit_headers import (
    EXPOSED_HEADERS,
    HeaderFormat,
    Headers,
    RawHeaders,
    encode_headers,
    limit_headers,
    retry_after,
    seconds,
)
from fleetlimit.web.responses import (
    MAX_CACHED_REJECTIONS,
    RejectionResponse,
    rate_limited_response,
)

MAX_CACHED_HEADERS: Final = 4_096
_DRAFT_11: Final = HeaderFormat.DRAFT_11
_EPOCH: Final = HeaderFormat.X_RATELIMIT_EPOCH
_SHADOW: Final = Mode.SHADOW
# Policy, quotas, remaining units, seconds until there are more: all that the headers state.
_HeaderCacheKey = tuple[str, tuple[Quota, ...], int, int]


class Identifier(Protocol):
    """Identifies the caller of a request, from verified credentials only."""

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return the identity behind an ASGI `http` or `websocket` scope; never raises."""
        ...


class HTTPLimiter:
    """A limiter with the identity, the headers and the rejections of HTTP.

    Args:
        limiter: Decides.
        identifier: Identifies callers; a reload of the policy file replaces it.
        header_format: Format of the limit headers.
        reject_invalid: Whether a credential that does not verify is rejected with 401.
    """

    def __init__(
        self,
        limiter: Limiter,
        identifier: Identifier,
        *,
        header_format: HeaderFormat = HeaderFormat.DRAFT_11,
        reject_invalid: bool = False,
    ) -> None:
        self.limiter = limiter
        self.identifier = identifier
        self.header_format = header_format
        self.reject_invalid = reject_invalid
        # In a flood the denial cache returns the same decision again and again.
        self._rejection_cache: dict[Decision, RejectionResponse] = {}
        self._header_cache: dict[_HeaderCacheKey, RawHeaders] = {}

    @property
    def exposed_headers(self) -> str:
        """Names of the headers that a browser's script may want to read."""
        return EXPOSED_HEADERS[self.header_format]

    def response_headers(self, decision: Decision) -> Headers:
        """Return the headers for a response, with Retry-After for a rejection."""
        now = int(time.time()) if self.header_format is _EPOCH else 0
        headers = limit_headers(decision, self.header_format, unix_seconds=now)
        if not decision.allowed:
            headers.append(("Retry-After", retry_after(decision)))
        return headers

    def raw_response_headers(self, decision: Decision) -> RawHeaders:
        """Return the headers as ASGI byte pairs. The list is shared: do not modify it.

        The headers of decisions with a single limit are cached, because building them costs as
        much as the check itself.
        """
        if (
            decision.outcome is ALLOWED
            and len(decision.results) == 1
            and self.header_format is _DRAFT_11
        ):
            result = decision.results[0]
            statuses = result.statuses
            if result.mode is not _SHADOW and len(statuses) == 1 and statuses[0] is not None:
                status = statuses[0]
                key = (
                    result.policy,
                    result.quotas,
                    status.remaining,
                    seconds(status.next_unit_after_us),
                )
                return self._header_cache.get(key) or self._add_headers(key, decision)
        return encode_headers(self.response_headers(decision))

    def rejection_response(self, decision: Decision) -> RejectionResponse:
        """Return the response for a decision that rejects the request."""
        cached = self._rejection_cache.get(decision)
        if cached is not None:
            return cached
        if len(self._rejection_cache) >= MAX_CACHED_REJECTIONS:
            self._rejection_cache.clear()
        response = self._rejection_cache[decision] = rate_limited_response(
            decision, self.response_headers(decision), self.exposed_headers
        )
        return response

    def _add_headers(self, key: _HeaderCacheKey, decision: Decision) -> RawHeaders:
        if len(self._header_cache) >= MAX_CACHED_HEADERS:
            self._header_cache.clear()
        headers = self._header_cache[key] = encode_headers(self.response_headers(decision))
        return headers

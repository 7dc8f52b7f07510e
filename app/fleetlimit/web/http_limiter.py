"""The HTTP side of a limiter: identity of the caller, and the headers and rejections it sends."""

import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.decision import ALLOWED, Decision, Outcome, ceil_seconds
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Identity
from fleetlimit.limiter.app_function import DEFAULT_TIMEOUT_S
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.ratelimit_headers import (
    EXPOSED_HEADERS,
    HeaderFormat,
    Headers,
    RawHeaders,
    encode_headers,
    limit_headers,
    retry_after,
)
from fleetlimit.web.responses import RejectionResponse, rate_limited_response

MAX_CACHED_HEADERS: Final = 4_096
MAX_CACHED_REJECTIONS: Final = 1_024
# Read in every request: see `ALLOWED` in `core/decision.py`.
_DRAFT_11: Final = HeaderFormat.DRAFT_11
_EPOCH: Final = HeaderFormat.X_RATELIMIT_EPOCH
_SHADOW: Final = Mode.SHADOW
_CacheKey = tuple[str, tuple[Quota, ...], int, int, int]
"""Policy, quotas, remaining units, seconds until the next unit, and seconds until a retry."""
_HeadersKey = tuple[Outcome, tuple[str, ...], tuple[tuple[str, str], ...]]
"""Outcome, names of the policies that deny, and headers, of a decision without a `_CacheKey`."""


class Identifier(Protocol):
    """Identifies the caller of a request, from verified credentials only."""

    @property
    def known_tiers(self) -> frozenset[str] | None:
        """Tiers that callers can have; None where they cannot be listed."""
        ...

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
        function_timeout_s: Seconds that an async cost function may take.
        failure_log: Log of the failures of cost functions; by default one of its own.
    """

    def __init__(
        self,
        limiter: Limiter,
        identifier: Identifier,
        *,
        header_format: HeaderFormat = HeaderFormat.DRAFT_11,
        reject_invalid: bool = False,
        function_timeout_s: float = DEFAULT_TIMEOUT_S,
        failure_log: FailureLog | None = None,
    ) -> None:
        self.limiter = limiter
        self.identifier = identifier
        self.header_format = header_format
        self.reject_invalid = reject_invalid
        self.function_timeout_s = function_timeout_s
        self.failure_log = failure_log or FailureLog(MonotonicClock())
        self._rejection_cache: BoundedCache[_CacheKey | _HeadersKey, RejectionResponse] = (
            BoundedCache(MAX_CACHED_REJECTIONS)
        )
        self._header_cache: BoundedCache[_CacheKey, RawHeaders] = BoundedCache(MAX_CACHED_HEADERS)

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
        key = self._cache_key(decision) if decision.outcome is ALLOWED else None
        if key is None:
            return encode_headers(self.response_headers(decision))
        headers = self._header_cache.get(key)
        if headers is None:
            headers = encode_headers(self.response_headers(decision))
            self._header_cache.put(key, headers)
        return headers

    def rejection_response(self, decision: Decision) -> RejectionResponse:
        """Return the response for a decision that rejects the request.

        In a flood the response stays the same for as long as the seconds to wait do.
        """
        headers: Headers | None = None
        key: _CacheKey | _HeadersKey | None = self._cache_key(decision)
        if key is None:
            headers = self.response_headers(decision)
            key = (decision.outcome, decision.denied_by, tuple(headers))
        response = self._rejection_cache.get(key)
        if response is None:
            if headers is None:
                headers = self.response_headers(decision)
            response = rate_limited_response(decision, headers, self.exposed_headers)
            self._rejection_cache.put(key, response)
        return response

    def _cache_key(self, decision: Decision) -> _CacheKey | None:
        """Return everything that the response to a decision with a single limit states.

        Returns:
            None for other decisions, and for a format that may state the time of day.
        """
        if len(decision.results) != 1 or self.header_format is not _DRAFT_11:
            return None
        result = decision.results[0]
        status = result.statuses[0] if len(result.statuses) == 1 else None
        if status is None or result.mode is _SHADOW:
            return None
        return (
            result.policy,
            result.quotas,
            status.remaining,
            ceil_seconds(status.next_unit_after_us),
            ceil_seconds(decision.retry_after_us),
        )

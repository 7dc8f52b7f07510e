"""What stands behind the dependency and the middleware, and how they find it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.decision import ALLOWED, Decision
from fleetlimit.core.policy import Mode
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Identity
from fleetlimit.errors import ConfigError
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
from fleetlimit.web.responses import MAX_REJECTIONS, RejectionResponse, rate_limited_response

MAX_CACHED_HEADERS: Final = 4_096
_DRAFT_11: Final = HeaderFormat.DRAFT_11
_EPOCH: Final = HeaderFormat.X_RATELIMIT_EPOCH
_SHADOW: Final = Mode.SHADOW
_CacheKey = tuple[str, tuple[Quota, ...], int, int, int]
"""Policy, quotas, remaining units, seconds until the next unit, and seconds until a retry."""


class Identifier(Protocol):
    """Tells who sent a request, from verified credentials only."""

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return the identity behind an ASGI `http` or `websocket` scope; never raises."""
        ...


class HTTPLimiter:
    """A limiter, and how the web sees it.

    Args:
        limiter: Decides.
        identifier: Tells who sent a request; replaced when the policy file is.
        header_format: How clients are told of their limits.
        reject_invalid: Whether a credential that does not verify is refused with 401.
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
        self._rejection_cache: BoundedCache[_CacheKey, RejectionResponse] = BoundedCache(
            MAX_REJECTIONS
        )
        self._header_cache: BoundedCache[_CacheKey, RawHeaders] = BoundedCache(MAX_CACHED_HEADERS)

    @property
    def exposed_headers(self) -> str:
        """Names of the fields that a browser's script may want to read."""
        return EXPOSED_HEADERS[self.header_format]

    def response_headers(self, decision: Decision) -> Headers:
        """Return the fields for a response, with Retry-After if it is a refusal."""
        now = int(time.time()) if self.header_format is _EPOCH else 0
        headers = limit_headers(decision, self.header_format, unix_seconds=now)
        if not decision.allowed:
            headers.append(("Retry-After", retry_after(decision)))
        return headers

    def raw_response_headers(self, decision: Decision) -> RawHeaders:
        """Return the same as ASGI has them, in a list that others are given as well.

        One limit's are kept: many callers have as much left, and to write them takes as long as to
        decide.
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
        """Return the response of a refusing decision."""
        key = self._cache_key(decision)
        response = self._rejection_cache.get(key) if key is not None else None
        if response is None:
            response = rate_limited_response(
                decision, self.response_headers(decision), self.exposed_headers
            )
            if key is not None:
                self._rejection_cache.put(key, response)
        return response

    def _cache_key(self, decision: Decision) -> _CacheKey | None:
        """Return everything that a response contains of a decision with a single limit.

        Returns:
            None for other decisions, and for a format that contains the time of day.
        """
        if len(decision.results) != 1 or self.header_format is not _DRAFT_11:
            return None
        result = decision.results[0]
        status = result.statuses[0] if len(result.statuses) == 1 else None
        if status is None or result.mode is _SHADOW:
            return None
        more_seconds = seconds(status.next_unit_after_us)
        retry_seconds = seconds(decision.retry_after_us)
        return result.policy, result.quotas, status.remaining, more_seconds, retry_seconds


class DefaultGate:
    """Makes a gate for an app that sets up none; `open` is given by the package's root."""

    open: ClassVar[Callable[[], HTTPLimiter] | None] = None


def get_limiter(scope: Mapping[str, Any]) -> HTTPLimiter:
    """Return the gate of the app that a request came to.

    It is the one that the app's lifespan opened; an app without one gets a gate of its own, made
    from the environment.

    Raises:
        ConfigError: There is no app that could have one.
    """
    state = scope.get("state")
    if state and isinstance(http_limiter := state.get("fleetlimit"), HTTPLimiter):
        return http_limiter
    app = scope.get("app")
    if app is None:
        raise ConfigError(
            "an app that is not Starlette's needs RateLimitMiddleware(app, http_limiter=...)"
        )
    http_limiter = getattr(app.state, "fleetlimit", None)
    if not isinstance(http_limiter, HTTPLimiter):
        if DefaultGate.open is None:
            raise RuntimeError("import fleetlimit before its parts")
        http_limiter = app.state.fleetlimit = DefaultGate.open()
    return http_limiter

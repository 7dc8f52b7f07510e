"""What stands behind the dependency and the middleware, and how they find it."""

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

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
_HeaderCacheKey = tuple[str, int, int, int]
_HeaderCacheEntry = tuple[tuple[Quota, ...], RawHeaders]


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
        # By the id of the decision, which is kept with it: in a flood one is given again and again.
        self._rejection_cache: dict[int, tuple[Decision, RejectionResponse]] = {}
        # By all that they say; the limits by their id, and kept with it.
        self._header_cache: dict[_HeaderCacheKey, _HeaderCacheEntry] = {}

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
        outcome, _, results, _, _ = decision
        if outcome is ALLOWED and len(results) == 1 and self.header_format is _DRAFT_11:
            policy, mode, _, quotas, statuses = results[0]
            if mode is not _SHADOW and len(statuses) == 1 and statuses[0] is not None:
                _, remaining, _, next_unit_after_us, _ = statuses[0]
                key = policy, id(quotas), remaining, seconds(next_unit_after_us)
                cached = self._header_cache.get(key) or self._remember(key, quotas, decision)
                return cached[1]
        return encode_headers(self.response_headers(decision))

    def rejection_response(self, decision: Decision) -> RejectionResponse:
        """Return the response of a refusing decision."""
        cached = self._rejection_cache.get(id(decision))
        if cached is not None and cached[0] is decision:
            return cached[1]
        if len(self._rejection_cache) >= MAX_REJECTIONS:
            self._rejection_cache.clear()
        response = rate_limited_response(
            decision, self.response_headers(decision), self.exposed_headers
        )
        self._rejection_cache[id(decision)] = decision, response
        return response

    def _remember(
        self, key: _HeaderCacheKey, quotas: tuple[Quota, ...], decision: Decision
    ) -> _HeaderCacheEntry:
        if len(self._header_cache) >= MAX_CACHED_HEADERS:
            self._header_cache.clear()
        entry = self._header_cache[key] = quotas, encode_headers(self.response_headers(decision))
        return entry


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

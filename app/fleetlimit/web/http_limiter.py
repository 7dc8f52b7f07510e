"""The HTTP side of a limiter: identity of the caller, and the headers and rejections it sends."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from fleetlimit.core.bounded_cache import BoundedCache
from fleetlimit.core.decision import ALLOWED, Decision, Outcome, ceil_seconds
from fleetlimit.core.policy import Mode
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Identity
from fleetlimit.limiter.app_function import DEFAULT_TIMEOUT_S
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.web.header_layout import HeaderSpec, parse_layout
from fleetlimit.web.ratelimit_headers import (
    HeaderFormat,
    Headers,
    RawHeaders,
    draft_headers,
    encode_headers,
    retry_after,
)
from fleetlimit.web.rejections import RejectionSender
from fleetlimit.web.responses import RejectionResponse, rate_limited_response

MAX_CACHED_HEADERS: Final = 4_096
MAX_CACHED_REJECTIONS: Final = 1_024
# Read in every request: see `ALLOWED` in `core/decision.py`.
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
        header_format: Format of the limit headers, custom names by field, or several of both.
        reject_invalid: Whether a credential that does not verify is rejected with 401.
        function_timeout_s: Seconds that an async cost function may take.
        failure_log: Log of the failures of the app's functions; by default one of its own.
        rejection_sender: What the app has for rejections; by default nothing.

    Raises:
        ConfigError: The format is not known, or has a wrong name.
    """

    def __init__(
        self,
        limiter: Limiter,
        identifier: Identifier,
        *,
        header_format: HeaderSpec = HeaderFormat.DRAFT_11,
        reject_invalid: bool = False,
        function_timeout_s: float = DEFAULT_TIMEOUT_S,
        failure_log: FailureLog | None = None,
        rejection_sender: RejectionSender | None = None,
    ) -> None:
        self.limiter = limiter
        self.identifier = identifier
        self.header_layout = parse_layout(header_format)
        # Lower-case names of the headers that replace those of the app.
        self.header_names = self.header_layout.raw_names | {b"retry-after"}
        self._is_draft_11 = self.header_layout.is_draft_11
        self.reject_invalid = reject_invalid
        self.function_timeout_s = function_timeout_s
        self.failure_log = failure_log or FailureLog(MonotonicClock())
        # Function of the app that exempts requests from all policies.
        self.exempt_function: PolicyFunction | None = None
        self.rejection_sender = rejection_sender or RejectionSender()
        # Names of policies, and the policy set that they are from.
        self._token_policies_of: PolicySet | None = None
        self._token_policy_names: frozenset[str] = frozenset()
        self._rejection_cache: BoundedCache[_CacheKey | _HeadersKey, RejectionResponse] = (
            BoundedCache(MAX_CACHED_REJECTIONS)
        )
        self._header_cache: BoundedCache[_CacheKey, RawHeaders] = BoundedCache(MAX_CACHED_HEADERS)

    def exact_address(self, scope: Mapping[str, Any]) -> str:
        """Return the client's own address, for networks; empty if it is not certain."""
        resolve: Callable[[Mapping[str, Any]], str] | None
        # An identifier of the app may have none.
        resolve = getattr(self.identifier, "exact_address", None)
        return resolve(scope) if resolve is not None else ""

    @property
    def exposed_headers(self) -> str:
        """Names of the headers that a browser's script may want to read."""
        return self.header_layout.exposed

    def response_headers(self, decision: Decision) -> Headers:
        """Return the headers for a response, with Retry-After for a rejection."""
        if self._is_draft_11:
            headers = draft_headers(decision)
        else:
            headers = self.header_layout.headers(
                decision, unix_us=time.time_ns() // 1_000, token_policies=self._token_policies()
            )
        if not decision.allowed:
            headers.append(("Retry-After", retry_after(decision)))
        return headers

    def _token_policies(self) -> frozenset[str]:
        """Return the names of the active policies whose cost is in tokens."""
        policy_set = self.limiter.active_policies.current
        if policy_set is not self._token_policies_of:
            self._token_policies_of = policy_set
            self._token_policy_names = frozenset(
                policy.name for policy in policy_set.policies if policy.cost is not None
            )
        return self._token_policy_names

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
        if len(decision.results) != 1 or not self._is_draft_11:
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

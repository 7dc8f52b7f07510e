"""Refusals as problem details (RFC 9457), of the types that the RateLimit draft registers."""

import json
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

from fleetlimit.core.decision import Decision, Outcome
from fleetlimit.errors import IdentityError
from fleetlimit.web.ratelimit_headers import Headers, encode_headers, retry_after


class RejectionResponse:
    """A response that turns a request away.

    Args:
        status: Its status.
        headers: Its headers.
        body: Its body.
        includes_limit_headers: Whether the limits' fields are among the headers.
    """

    def __init__(
        self, status: int, headers: Headers, body: bytes, *, includes_limit_headers: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.includes_limit_headers = includes_limit_headers

    @cached_property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI sends them."""
        return encode_headers(self.headers)


MEDIA_TYPE = "application/problem+json"
_REGISTRY = "https://iana.org/assignments/http-problem-types"
QUOTA_EXCEEDED = f"{_REGISTRY}#quota-exceeded"
REDUCED_CAPACITY = f"{_REGISTRY}#temporary-reduced-capacity"

TOO_MANY_REQUESTS = 429
SERVICE_UNAVAILABLE = 503
UNAUTHORIZED = 401
CONTENT_TOO_LARGE = 413
MAX_REJECTIONS = 1_024


def rate_limited_response(
    decision: Decision, limit_headers: Headers, exposed_headers: str
) -> RejectionResponse:
    """Turn a refusing decision into 429, or 503 where the store is away and a policy refuses."""
    fails_closed = decision.outcome is Outcome.FAIL_CLOSED
    status = SERVICE_UNAVAILABLE if fails_closed else TOO_MANY_REQUESTS
    return _cached_rate_limited_response(
        status, decision.denied_by, retry_after(decision), exposed_headers, tuple(limit_headers)
    )


@lru_cache(MAX_REJECTIONS)
def _cached_rate_limited_response(
    status: int,
    denied_by: tuple[str, ...],
    wait_seconds: str,
    exposed_headers: str,
    limit_headers: tuple[tuple[str, str], ...],
) -> RejectionResponse:
    """Return a refusal; in a flood it is the same for a second."""
    if status == SERVICE_UNAVAILABLE:
        problem_type = REDUCED_CAPACITY
        title = "Request cannot be satisfied due to temporary server capacity constraints"
        detail = f"The limit cannot be checked at the moment; try again in {wait_seconds} s."
    else:
        problem_type = QUOTA_EXCEEDED
        title = "Request cannot be satisfied as assigned quota has been exceeded"
        detail = f"The quota of {', '.join(denied_by)} is spent; try again in {wait_seconds} s."
    members = {"type": problem_type, "title": title, "detail": detail}
    body = _body(status, members, {"violated-policies": list(denied_by)})
    return RejectionResponse(
        status, _headers(exposed_headers, body, limit_headers), body, includes_limit_headers=True
    )


def unauthorized_response(error: IdentityError, exposed_headers: str) -> RejectionResponse:
    """Turn a credential that did not verify into 401 (RFC 9110, 15.5.2)."""
    members = {
        "type": "about:blank",
        "title": "Unauthorized",
        "detail": f"The credential was not accepted: {error.reason}.",
    }
    body = _body(UNAUTHORIZED, members, {})
    headers = _headers(exposed_headers, body, [("WWW-Authenticate", "Bearer")])
    return RejectionResponse(UNAUTHORIZED, headers, body)


def cost_too_large_response(message: str, exposed_headers: str) -> RejectionResponse:
    """Turn a cost that no limit could ever hold into 413.

    Without Retry-After, RFC 9110, 15.5.14 says the condition is not temporary: waiting is no help.
    """
    members = {"type": "about:blank", "title": "Content Too Large", "detail": f"{message}."}
    body = _body(CONTENT_TOO_LARGE, members, {})
    return RejectionResponse(CONTENT_TOO_LARGE, _headers(exposed_headers, body, []), body)


def _body(status: int, members: dict[str, str], extension: dict[str, Any]) -> bytes:
    return json.dumps({**members, "status": status, **extension}).encode()


def _headers(exposed_headers: str, body: bytes, extra: Iterable[tuple[str, str]]) -> Headers:
    return [
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        # RFC 6585, section 4: a 429 must not be stored by a cache; the others must not either.
        ("Cache-Control", "no-store"),
        ("Access-Control-Expose-Headers", exposed_headers),
        *extra,
    ]


def _openapi_response(description: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["type", "title", "status"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "violated-policies": {"type": "array", "items": {"type": "string"}},
        },
    }
    headers = {
        "Retry-After": {
            "description": "Seconds to wait before the next attempt.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "RateLimit": {
            "description": "What is left of each limit, and seconds until there is more.",
            "schema": {"type": "string"},
        },
        "RateLimit-Policy": {
            "description": "The limits that hold this request.",
            "schema": {"type": "string"},
        },
    }
    return {
        "description": description,
        "headers": headers,
        "content": {MEDIA_TYPE: {"schema": schema}},
    }


RATE_LIMIT_RESPONSES: dict[int | str, dict[str, Any]] = {
    TOO_MANY_REQUESTS: _openapi_response("A quota is spent."),
    SERVICE_UNAVAILABLE: _openapi_response("The limit cannot be checked at the moment."),
}
"""What a limited route may answer, for `responses=` of a FastAPI route, router or app."""

"""Rejection responses: problem details (RFC 9457) of the types of the RateLimit draft."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from fleetlimit.core.decision import Decision, Outcome
from fleetlimit.errors import IdentityError
from fleetlimit.web.ratelimit_headers import Headers, encode_headers, retry_after


class RejectionCause(StrEnum):
    """Cause of a rejection, which selects the exception class of the dependencies."""

    LIMIT = "limit"
    CREDENTIAL_INVALID = "credential_invalid"
    CREDENTIAL_UNVERIFIED = "credential_unverified"
    COST = "cost"


@dataclass(eq=False)
class RejectionResponse:
    """A response that rejects a request. Requests share it: do not modify it.

    Args:
        status: HTTP status.
        headers: Headers, in the case in which they are documented.
        body: Problem details as JSON.
        cause: Cause of the rejection. The limit headers are among the headers of `LIMIT` alone.
    """

    status: int
    headers: Headers
    body: bytes
    cause: RejectionCause

    @cached_property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers as ASGI represents them."""
        return encode_headers(self.headers)

    @cached_property
    def detail(self) -> str | None:
        """Explanation for the client, as in the problem details; None without a body."""
        return json.loads(self.body)["detail"] if self.body else None


MEDIA_TYPE = "application/problem+json"
_REGISTRY = "https://iana.org/assignments/http-problem-types"
QUOTA_EXCEEDED = f"{_REGISTRY}#quota-exceeded"
REDUCED_CAPACITY = f"{_REGISTRY}#temporary-reduced-capacity"

TOO_MANY_REQUESTS = 429
SERVICE_UNAVAILABLE = 503
UNAUTHORIZED = 401
CONTENT_TOO_LARGE = 413


def rate_limited_response(
    decision: Decision, limit_headers: Headers, exposed_headers: str
) -> RejectionResponse:
    """Return 429 for a decision, or 503 if the store is unavailable and a policy denies then."""
    denied_by, wait_seconds = decision.denied_by, retry_after(decision)
    if decision.outcome is Outcome.FAIL_CLOSED:
        status, problem_type = SERVICE_UNAVAILABLE, REDUCED_CAPACITY
        title = "Request cannot be satisfied due to temporary server capacity constraints"
        detail = f"The limit cannot be checked at the moment; try again in {wait_seconds} s."
    else:
        status, problem_type = TOO_MANY_REQUESTS, QUOTA_EXCEEDED
        title = "Request cannot be satisfied as assigned quota has been exceeded"
        detail = f"The quota of {', '.join(denied_by)} is spent; try again in {wait_seconds} s."
    members = {"type": problem_type, "title": title, "detail": detail}
    body = _body(status, members, {"violated-policies": list(denied_by)})
    headers = _headers(exposed_headers, body, limit_headers)
    return RejectionResponse(status, headers, body, cause=RejectionCause.LIMIT)


def credential_response(error: IdentityError, exposed_headers: str) -> RejectionResponse:
    """Return 401 for an invalid credential (RFC 9110, 15.5.2), or 503 for an unverified one.

    A client that gets a 401 discards its credential (RFC 6750, section 3.1: `invalid_token`). One
    that could not be verified may be valid, so its client is asked to retry (RFC 9110, 15.6.4).
    """
    if error.retry_after is not None:
        return _unverified_response(error.reason, error.retry_after, exposed_headers)
    members = {
        "type": "about:blank",
        "title": "Unauthorized",
        "detail": f"The credential was not accepted: {error.reason}.",
    }
    body = _body(UNAUTHORIZED, members, {})
    # RFC 6750, section 3.1, defines the parameter.
    challenge = 'Bearer error="invalid_token"' if error.scheme == "Bearer" else error.scheme
    headers = _headers(exposed_headers, body, [("WWW-Authenticate", challenge)])
    return RejectionResponse(UNAUTHORIZED, headers, body, cause=RejectionCause.CREDENTIAL_INVALID)


def _unverified_response(reason: str, wait_seconds: int, exposed_headers: str) -> RejectionResponse:
    members = {
        "type": "about:blank",
        "title": "Service Unavailable",
        "detail": f"The credential cannot be verified at the moment: {reason}; try again in "
        f"{wait_seconds} s.",
    }
    body = _body(SERVICE_UNAVAILABLE, members, {})
    headers = _headers(exposed_headers, body, [("Retry-After", str(wait_seconds))])
    cause = RejectionCause.CREDENTIAL_UNVERIFIED
    return RejectionResponse(SERVICE_UNAVAILABLE, headers, body, cause=cause)


def state_unknown_response(exposed_headers: str) -> RejectionResponse:
    """Return 503 for a request about limits whose state the store does not return."""
    members = {
        "type": REDUCED_CAPACITY,
        "title": "Request cannot be satisfied due to temporary server capacity constraints",
        "detail": "The limits cannot be read at the moment; try again in 1 s.",
    }
    body = _body(SERVICE_UNAVAILABLE, members, {})
    headers = _headers(exposed_headers, body, [("Retry-After", "1")])
    return RejectionResponse(SERVICE_UNAVAILABLE, headers, body, cause=RejectionCause.LIMIT)


def cost_too_large_response(message: str, exposed_headers: str) -> RejectionResponse:
    """Return 413 for a cost above what a limit can ever admit.

    Without Retry-After: by RFC 9110, 15.5.14, the condition is then not temporary.
    """
    members = {"type": "about:blank", "title": "Content Too Large", "detail": f"{message}."}
    body = _body(CONTENT_TOO_LARGE, members, {})
    headers = _headers(exposed_headers, body, [])
    return RejectionResponse(CONTENT_TOO_LARGE, headers, body, cause=RejectionCause.COST)


def _body(status: int, members: dict[str, str], extension: dict[str, Any]) -> bytes:
    return json.dumps({**members, "status": status, **extension}).encode()


def _headers(exposed_headers: str, body: bytes, extra: Iterable[tuple[str, str]]) -> Headers:
    return [
        ("Content-Type", MEDIA_TYPE),
        ("Content-Length", str(len(body))),
        # RFC 6585, section 4, forbids caches to store a 429; 401, 413 and 503 are as short-lived.
        ("Cache-Control", "no-store"),
        ("Access-Control-Expose-Headers", exposed_headers),
        *extra,
    ]


PROBLEM_SCHEMA: dict[str, Any] = {
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
"""Schema of the problem details of a rejection."""


def _openapi_response(description: str) -> dict[str, Any]:
    headers = {
        "Retry-After": {
            "description": "Seconds to wait before the next attempt.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "RateLimit": {
            "description": "Remaining units of each limit, and seconds until there are more.",
            "schema": {"type": "string"},
        },
        "RateLimit-Policy": {
            "description": "The limits that apply to this request.",
            "schema": {"type": "string"},
        },
    }
    return {
        "description": description,
        "headers": headers,
        "content": {MEDIA_TYPE: {"schema": PROBLEM_SCHEMA}},
    }


RATE_LIMIT_RESPONSES: dict[int | str, dict[str, Any]] = {
    TOO_MANY_REQUESTS: _openapi_response("A limit is exceeded."),
    SERVICE_UNAVAILABLE: _openapi_response(
        "A limit or a credential cannot be checked at the moment."
    ),
}
"""OpenAPI documentation of rejections, for `responses=` of a FastAPI route, router or app."""

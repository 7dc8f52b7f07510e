"""Admin token: access to the endpoints that change or disclose the state of callers."""

import functools
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from fleetlimit.bootstrap.build import build_logger
from fleetlimit.core.algorithms import token_bucket
from fleetlimit.core.decision import ceil_seconds
from fleetlimit.core.quota import rate_quota
from fleetlimit.errors import ConfigError, KeySecretError, StoreError
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.ports import Clock
from fleetlimit.server.admin.problem import problem_response
from fleetlimit.telemetry import names

_FAILED_LOGINS: Final = rate_quota("10/minute")
_MAX_BODY_BYTES: Final = 65_536
"""Far above any valid body; bounds the memory that a client can use."""


def token_required(
    endpoint: Callable[[Request, Any], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that requires the admin token, and then reads the JSON body.

    Args:
        endpoint: Function of the request and its body. Its `ConfigError` becomes a 400, its
            `KeySecretError` a 409 and its `StoreError` a 503.
    """

    @functools.wraps(endpoint)
    async def call(request: Request) -> Response:
        if (rejection := _check_token(request)) is not None:
            return rejection
        try:
            return await endpoint(request, await _read_json(request))
        except KeySecretError as error:
            return problem_response(409, str(error))
        except ConfigError as error:
            return problem_response(400, str(error))
        except StoreError as error:
            return problem_response(503, f"the store is unavailable: {error.kind}")

    return call


class FailedLogins:
    """Limit on the wrong tokens of all clients. The right token is accepted all the same.

    Args:
        clock: Clock of this process.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or MonotonicClock()
        self._state: token_bucket.GcraState | None = None

    def spend(self) -> int:
        """Count a wrong token; return the seconds until the next one is answered, 0 for now."""
        now_us = self._clock.monotonic_us()
        status, state = token_bucket.acquire(_FAILED_LOGINS, self._state, now_us, 1, "")
        if status.allowed:
            self._state = state
        return ceil_seconds(status.retry_after_us)


def _check_token(request: Request) -> Response | None:
    """Return the rejection of a request without the admin token."""
    admin = request.app.state.admin
    if not admin.token:
        return problem_response(
            404, f"set FLEETLIMIT_ADMIN_TOKEN to offer {request.method} {request.url.path}"
        )
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    # Headers are decoded as Latin-1; clients send a token beyond ASCII in UTF-8.
    given = token.encode("latin-1")
    if scheme.lower() == "bearer" and hmac.compare_digest(given, admin.token.encode()):
        return None
    retry_after = admin.failed_logins.spend()
    if retry_after:
        return problem_response(
            429,
            f"too many wrong tokens: wait {retry_after} s",
            {"Retry-After": str(retry_after)},
        )
    client = request.client.host if request.client else ""
    build_logger("fleetlimit").warning(names.LOG_ADMIN_REJECTED, client=client)
    return problem_response(
        401,
        "send Authorization: Bearer with the admin token",
        {"WWW-Authenticate": "Bearer"},
    )


async def _read_json(request: Request) -> Any:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ConfigError(f"the body is above {_MAX_BODY_BYTES:,} bytes: write fewer values")
    try:
        parsed = json.loads(body)
        # Half of a surrogate pair, such as "\ud800", is no text that can be sent or hashed.
        json.dumps(parsed, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ConfigError("the body is not JSON") from error
    return parsed

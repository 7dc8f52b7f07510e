"""Assertions about limits: a route admits exactly its limit, and answers the next request well."""

import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeVar

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.limit_switch import LIMIT_SWITCH
from fleetlimit.testing.clock import ManualClock
from fleetlimit.web.responses import CONTENT_TOO_LARGE, SERVICE_UNAVAILABLE, TOO_MANY_REQUESTS

MAX_LIMIT: Final = 10_000
"""Requests that one assertion sends at most: more take longer than a test should."""
_REJECTIONS: Final = frozenset({TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE, CONTENT_TOO_LARGE})
_MISTAKES: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED})
_ITEM = r'"[^"]+"(?:;[a-z]+=(?:\d+|"[^"]*"))*'
_LIMIT_FIELD = re.compile(rf"{_ITEM}(?:, {_ITEM})*")
"""An item for each limit, as in `RateLimit` and `RateLimit-Policy`."""
_SHOWN_CHARS: Final = 300


class _Response(Protocol):
    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def text(self) -> str: ...


Response = TypeVar("Response", bound=_Response)
Response_co = TypeVar("Response_co", bound=_Response, covariant=True)


class Client(Protocol[Response_co]):
    """A client with the method `request`, such as `TestClient` or `httpx.Client`."""

    @property
    def request(self) -> Callable[..., Response_co]:
        """Send a request and return the response."""
        ...


class AsyncClient(Protocol[Response_co]):
    """A client with the async method `request`, such as `httpx.AsyncClient`."""

    @property
    def request(self) -> Callable[..., Awaitable[Response_co]]:
        """Send a request and return the response."""
        ...


def assert_limited(
    client: Client[Response],
    method: str,
    path: str,
    limit: int,
    *,
    status: int | Collection[int] | None = None,
    clock: ManualClock | None = None,
    **request: Any,
) -> Response:
    """Assert that exactly `limit` requests are admitted, and that the next one gets a valid 429.

    Args:
        client: Client of the app, such as `TestClient` or `httpx.Client`.
        method: Method of the requests.
        path: Path of the requests.
        limit: Number of requests that the caller can send from now on; 1 to 10,000.
        status: Status of an admitted request, or several; by default any but 404, 405 and those
            from 500 on.
        clock: The test's clock. It is advanced by `Retry-After`, after which one more request must
            be admitted.
        request: Further arguments of `client.request`, such as `headers` or `json`.

    Returns:
        The response that rejects the request, for further assertions.

    Raises:
        AssertionError: Fewer or more requests are admitted, or the 429 has no valid fields.
        TypeError: An argument is of another type.
    """
    __tracebackhide__ = True
    steps = _steps(f"{method} {path}", _checked_limit(limit), _statuses(status), clock)
    next(steps)
    while True:
        response = client.request(method, path, **request)
        if inspect.isawaitable(response):
            if inspect.iscoroutine(response):
                response.close()
            raise TypeError("the client is async: write `await assert_limited_async(...)`")
        try:
            steps.send(response)
        except StopIteration as ended:
            rejected: Response = ended.value
            return rejected


async def assert_limited_async(
    client: AsyncClient[Response],
    method: str,
    path: str,
    limit: int,
    *,
    status: int | Collection[int] | None = None,
    clock: ManualClock | None = None,
    **request: Any,
) -> Response:
    """Assert the same as `assert_limited` with an async client, such as `httpx.AsyncClient`.

    Arguments, result and errors are those of `assert_limited`.
    """
    __tracebackhide__ = True
    steps = _steps(f"{method} {path}", _checked_limit(limit), _statuses(status), clock)
    next(steps)
    while True:
        response = client.request(method, path, **request)
        if not inspect.isawaitable(response):
            raise TypeError("the client is not async: write `assert_limited(...)` without await")
        try:
            steps.send(await response)
        except StopIteration as ended:
            rejected: Response = ended.value
            return rejected


async def spent_units(
    fleetlimit: Fleetlimit,
    policy: str,
    principal: str | Principal | None = None,
    *,
    subject: Subject | None = None,
    limit: str | None = None,
) -> int:
    """Return the units of a limit that a caller has spent and that have not refilled yet.

    With `TestClient` write `client.portal.call(spent_units, fleetlimit, "exports", "alice")`: the
    limiter runs in the event loop of the client.

    Args:
        fleetlimit: The limiter under test.
        policy: Name of an active policy.
        principal: The caller.
        subject: The caller and the route, in place of `principal`.
        limit: Name of the limit, such as `tb60`, in a policy with several limits.

    Raises:
        ConfigError: There is no policy of that name.
        ValueError: The policy has several limits, none of that name, or is off.
    """
    decision = await fleetlimit.limiter.peek(policy, subject=subject, principal=principal, cost=0)
    results = [each for result in decision.results for each in result.limits]
    found = {each.quota.name: each for each in results if each.status is not None}
    if limit is None and len(found) == 1:
        (limit,) = found
    if limit not in found:
        names = ", ".join(found) or "no limit, because it is off"
        raise ValueError(f"policy {policy} has {names}: write limit= with the name of one")
    result = found[limit]
    assert result.status is not None  # noqa: S101 - selected above
    return result.quota.burst - result.status.remaining


def _checked_limit(limit: int) -> int:
    if type(limit) is not int or not 1 <= limit <= MAX_LIMIT:
        raise TypeError(
            f"limit={limit!r} is not a number of requests: write one from 1 to {MAX_LIMIT:,}"
        )
    return limit


def _statuses(status: int | Collection[int] | None) -> Collection[int] | None:
    return (status,) if isinstance(status, int) else status


def _steps(
    request: str, limit: int, statuses: Collection[int] | None, clock: ManualClock | None
) -> Generator[None, Any, Any]:
    """Receive the response to each request, and return the one that rejects."""
    __tracebackhide__ = True
    for number in range(1, limit + 1):
        response = yield
        _require_admitted(response, f"{request}: request {number} of {limit}", statuses)
    rejected = yield
    if rejected.status_code not in _REJECTIONS:
        off = " (the limits are off: unlimited() is active)" if LIMIT_SWITCH.is_off else ""
        raise AssertionError(
            f"{request}: request {limit + 1} was admitted with {rejected.status_code}, and the "
            f"limit should be {limit}{off}"
        )
    wait_seconds = _require_valid(rejected, request)
    if clock is not None:
        clock.advance(wait_seconds)
        response = yield
        _require_admitted(response, f"{request}: {wait_seconds} s after the rejection", statuses)
    return rejected


def _require_admitted(response: Any, request: str, statuses: Collection[int] | None) -> None:
    __tracebackhide__ = True
    code = response.status_code
    if statuses is not None and code in statuses:
        return
    if code in _REJECTIONS:
        raise AssertionError(
            f"{request} was rejected with {code}: {_shown(response)}; the limit is lower, or "
            "earlier requests of this caller have spent it"
        )
    if statuses is not None:
        raise AssertionError(f"{request} was answered with {code}, not {_listed(statuses)}")
    if code in _MISTAKES or code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise AssertionError(
            f"{request} was answered with {code}: {_shown(response)}; if the app means to, write "
            f"status={code}"
        )


def _require_valid(rejected: Any, request: str) -> int:
    """Return the seconds of a 429 with valid fields."""
    __tracebackhide__ = True
    code, headers = rejected.status_code, rejected.headers
    if code != TOO_MANY_REQUESTS:
        raise AssertionError(
            f"{request} was rejected with {code} in place of 429: {_shown(rejected)}"
        )
    wait = headers.get("Retry-After", "")
    if not re.fullmatch(r"[1-9][0-9]*", wait, re.ASCII):
        raise AssertionError(
            f"{request}: the 429 has Retry-After {wait!r}, which is not a number of seconds"
        )
    for name in ("RateLimit", "RateLimit-Policy"):
        value = headers.get(name)
        if value is not None and not _LIMIT_FIELD.fullmatch(value):
            raise AssertionError(f"{request}: the 429 has an invalid {name}: {value!r}")
    return int(wait)


def _shown(response: Any) -> str:
    text = response.text
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _listed(statuses: Collection[int]) -> str:
    return " or ".join(map(str, sorted(statuses)))

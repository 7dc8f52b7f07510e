"""Advice for calls with wrong arguments: the error names the call to write.

Python's own `TypeError` says which argument is wrong. A user who comes from another limiter also
needs to know what this one calls it.
"""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

Params = ParamSpec("Params")
Result = TypeVar("Result")
Advice = str | Callable[[Mapping[str, object]], str]
"""What to write, or a function of the keyword arguments that returns it."""

_LIMITS: Final = ("limit", "times", "requests", "calls", "max_requests", "amount")
_SECONDS: Final = {
    "window": 1,
    "period": 1,
    "per": 1,
    "second": 1,
    "seconds": 1,
    "minute": 60,
    "minutes": 60,
    "hour": 3_600,
    "hours": 3_600,
    "day": 86_400,
    "days": 86_400,
}


def rate_advice(given: Mapping[str, object]) -> str:
    """Return the `RateLimit` with the numbers of other limiters' arguments."""
    limit = next((given[name] for name in _LIMITS if name in given), None)
    seconds = 0
    for name, factor in _SECONDS.items():
        number = given.get(name, 0)
        seconds += number * factor if type(number) is int else 0
    rate = f"{limit} per {seconds} s" if type(limit) is int and seconds > 0 else "5/minute"
    return f'write RateLimit("{rate}")'


def advised(
    usage: str, names: Mapping[str, Advice]
) -> Callable[[Callable[Params, Result]], Callable[Params, Result]]:
    """Decorate a function, or the `__init__` of a class, whose wrong calls get advice.

    Args:
        usage: A call to write, for an argument that is missing or is one too many.
        names: What to write in place of a keyword argument that the function does not have.

    Returns:
        A decorator. A wrong call raises `TypeError`, as it does without.
    """

    def decorate(function: Callable[Params, Result]) -> Callable[Params, Result]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                is_method = function.__name__ == "__init__"
                name = type(args[0]).__name__ if is_method else function.__name__
                advice = _advice(signature, error, kwargs, usage, names)
                raise TypeError(f"{name}(){advice}") from None
            return function(*args, **kwargs)

        return call

    return decorate


def _advice(
    signature: inspect.Signature,
    error: TypeError,
    given: Mapping[str, Any],
    usage: str,
    names: Mapping[str, Advice],
) -> str:
    unknown = next((name for name in given if name not in signature.parameters), None)
    if unknown is None:
        return f": {error}; write {usage}"
    advice = names.get(unknown)
    if advice is None:
        near = get_close_matches(unknown, [*signature.parameters, *names], n=1)
        advice = names.get(near[0], f"write {near[0]}=") if near else f"write {usage}"
    text = advice if isinstance(advice, str) else advice(given)
    return f" has no argument {unknown!r}: {text}"


_REJECTED: Final = "write on_rejected= of Fleetlimit or of RateLimitMiddleware"
_STORE: Final = 'write store="redis://localhost:6379/0"'
_ALL_ROUTES: Final = (
    "write a policy named default in the policies, and app.add_middleware(RateLimitMiddleware)"
)
_KEY: Final = 'write key="client_address", or a function of the connection'
_COMMON: Final[Mapping[str, Advice]] = {
    "key_func": _KEY,
    "key_function": _KEY,
    "identifier": _KEY,
    "by": _KEY,
    "callback": _REJECTED,
    "on_exceeded": _REJECTED,
    "on_limit_exceeded": _REJECTED,
    "error_message": _REJECTED,
    "exempt_when": "write exempt=, a function of the connection",
    "skip": "write exempt=, a function of the connection",
    "cost_func": "write cost=, a number or a function of the connection",
    "strategy": "write algorithm=",
    "moving_window": 'write algorithm="sliding_log"',
    "scope": "write name=: the routes whose limits have one name share a limit",
    "shared": "write name=: the routes whose limits have one name share a limit",
    "methods": "write the limit on the route of that method",
    "per_method": "write the limit on the route of each method",
    "override_defaults": 'write PolicyLimit("name") for a policy that replaces default',
}
"""What arguments of other limiters for one route are here."""
LIMIT_NAMES: Final[Mapping[str, Advice]] = {
    **_COMMON,
    **dict.fromkeys((*_LIMITS, *_SECONDS, "limit_value", "limits", "milliseconds"), rate_advice),
    "when": lambda given: f"write count={given['when']!r}",
}
"""The same for `RateLimit`."""
FLEETLIMIT_NAMES: Final[Mapping[str, Advice]] = {
    **dict.fromkeys(
        ("redis_url", "redis", "url", "uri", "storage", "storage_uri", "backend", "valkey"), _STORE
    ),
    **dict.fromkeys(("default_limits", "application_limits", "global_limits"), _ALL_ROUTES),
    "policy": "write policies=",
    "policy_file": "write policies=",
    "key_func": "write key= in each policy and limit, and resolver= to identify callers",
    "identifier": "write resolver=, an async function that returns a Principal",
    "get_user": "write resolver=, an async function that returns a Principal",
    "callback": "write on_rejected=",
    "headers": 'write settings=Settings(headers="x-ratelimit")',
    "headers_enabled": 'write settings=Settings(headers="none") for no headers',
    "enabled": "write `with fleetlimit.testing.unlimited():` in tests",
    "prefix": 'write settings=Settings(key_prefix="...")',
    "app": "write FastAPI(lifespan=Fleetlimit())",
}
"""The same for `Fleetlimit`."""
MIDDLEWARE_NAMES: Final[Mapping[str, Advice]] = dict.fromkeys(
    (
        *("policies", "store", "settings", "limits", "limiter", "limit", "rate", "redis"),
        *("calls", "period", "times", "seconds", "requests", "window", "key", "resolver"),
    ),
    "write it for FastAPI(lifespan=Fleetlimit(...)): the middleware applies the policies of that "
    "limiter; app.add_middleware(RateLimitMiddleware) needs no arguments",
)
"""The same for `RateLimitMiddleware`."""
_DEPENDS: Final = 'write dependencies=[Depends(RateLimit("5/minute"))] on the route'
OTHER_LIMITERS: Final[Mapping[str, str]] = {
    "RateLimiter": _DEPENDS,
    "FastAPILimiter": "write FastAPI(lifespan=Fleetlimit(...))",
    "SlowAPIMiddleware": "write app.add_middleware(RateLimitMiddleware)",
    "SlowAPIASGIMiddleware": "write app.add_middleware(RateLimitMiddleware)",
    "get_remote_address": 'write key="client_address"',
    "get_ipaddr": 'write key="client_address"',
    "Throttled": _DEPENDS,
    "throttle": _DEPENDS,
}
"""Names of other limiters' packages, with what to write in place of each."""

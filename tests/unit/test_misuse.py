"""What a new user types wrong: each error says what to type.

A call with arguments that do not exist is a `TypeError`, as anywhere in Python; a value that is
wrong is a `ConfigError`.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import redis.asyncio
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.testclient import TestClient

import fleetlimit
from fleetlimit import (
    Caller,
    ConcurrencyLimit,
    ConfigError,
    Fleetlimit,
    Limit,
    Limiter,
    Match,
    Policy,
    PolicyLimit,
    PolicySet,
    RateLimit,
    RateLimitMiddleware,
    Reservation,
    Settings,
    rate_limit,
)
from fleetlimit.call_advice import OTHER_LIMITERS, advised

RATES = "write 100/second, 100/minute, 100/hour, 100/day"
NOT_A_DECORATOR = (
    "a limit is neither a decorator nor a middleware, write "
    "@app.get(..., dependencies=[Depends(RateLimit(...))])"
)
BARE = "dependencies=[RateLimit('5/minute')] is not wrapped: write dependencies=[Depends(RateL"
MIDDLEWARE = "write app.add_middleware(RateLimitMiddleware)"
FOR_LIFESPAN = "write it for FastAPI(lifespan=Fleetlimit(...)): the middleware applies the policies"
AS_LIFESPAN = "write FastAPI(lifespan=Fleetlimit("
untyped: Any = RateLimit
untyped_rate_limit: Any = rate_limit
untyped_concurrency: Any = ConcurrencyLimit
untyped_policy_limit: Any = PolicyLimit
untyped_middleware: Any = RateLimitMiddleware
untyped_fleetlimit: Any = Fleetlimit
untyped_limiter: Any = Limiter
untyped_policy: Any = Policy
untyped_set: Any = PolicySet
untyped_limit: Any = Limit
untyped_match: Any = Match


class OwnLimit(RateLimit):
    """A limit of an app."""

    def __init__(self) -> None:
        super().__init__("5/minute")


def route(**options: Any) -> None:
    """Add a route with these options to an app."""
    FastAPI().get("/", **options)(lambda: None)


def include(router: APIRouter, **options: Any) -> None:
    """Add a route to a router, include it in an app with these options, and build the routes."""
    router.get("/")(lambda: None)
    app = FastAPI()
    app.include_router(router, **options)
    TestClient(app).get("/")


def start(*, policies: PolicySet | None = None, **options: Any) -> None:
    """Start an app whose route has these options."""
    app = FastAPI(lifespan=Fleetlimit(policies=policies))
    app.get("/", **options)(lambda: None)
    with TestClient(app):
        pass


def unwrapped(limit=RateLimit("5/minute")) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001, B008 - as a newcomer writes it
    """Have a limit as the default of a parameter."""


def start_endpoint(endpoint: Callable[..., Any]) -> None:
    """Start an app with this endpoint."""
    app = FastAPI(lifespan=Fleetlimit())
    app.get("/")(endpoint)
    with TestClient(app):
        pass


def route_with(annotation: Any) -> None:
    """Add a route whose parameter has this annotation."""

    def endpoint(value: object) -> None: ...

    endpoint.__annotations__["value"] = annotation
    FastAPI().get("/")(endpoint)


async def check_by_hand(limit: RateLimit) -> None:
    """Check a limit for a caller, outside a request."""
    async with Fleetlimit() as limits:
        await limits.check(limit, principal="alice")


def serve(*middleware: Any) -> None:
    """Send a request to an app with a middleware."""
    app = FastAPI()
    app.add_middleware(*middleware)
    TestClient(app).get("/")


MISUSES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # Rates.
    "number": (lambda: untyped(5), ConfigError, f"5 is not a rate: {RATES}"),
    "number in text": (lambda: RateLimit("5"), ConfigError, f"'5' is not a rate: {RATES}"),
    "misspelt": (lambda: RateLimit("5/minuite"), ConfigError, RATES),
    "rates of slowapi": (
        lambda: RateLimit("5/minute;100/day"),
        ConfigError,
        "write a limit for each, such as Depends(RateLimit('5/minute')), Depends(RateLimit('10",
    ),
    "rates with a comma": (
        lambda: Limit.rate("5/minute, 100 per 2 days"),
        ConfigError,
        "Depends(RateLimit('5/minute')), Depends(RateLimit('100 per 2 days'))",
    ),
    "list of rates": (
        lambda: untyped(["5/minute", "100/day"]),
        ConfigError,
        "['5/minute', '100/day'] has several rates: write a limit for each",
    ),
    "list with a wrong rate": (
        lambda: untyped(["5/minute", 100]),
        ConfigError,
        f"['5/minute', 100] is not a rate: {RATES}",
    ),
    "no rate": (untyped, TypeError, 'write RateLimit("5/minute", burst=10)'),
    "two numbers": (
        lambda: untyped("5/minute", 10),
        TypeError,
        'RateLimit(): too many positional arguments; write RateLimit("5/minute", bu',
    ),
    "limit and window": (
        lambda: untyped(limit=5, window=60),
        TypeError,
        "RateLimit() has no argument 'limit': write RateLimit(\"5 per 60 s\")",
    ),
    "times and seconds": (
        lambda: untyped(times=2, seconds=5),
        TypeError,
        "RateLimit() has no argument 'times': write RateLimit(\"2 per 5 s\")",
    ),
    "times and two units": (
        lambda: untyped(times=2, minutes=1, seconds=5),
        TypeError,
        'write RateLimit("2 per 65 s")',
    ),
    "times without seconds": (
        lambda: untyped(times="2", seconds="5"),
        TypeError,
        'write RateLimit("5/minute")',
    ),
    "window of rate_limit": (
        lambda: untyped_rate_limit("5/minute"),
        TypeError,
        "rate_limit(): missing a required argument: 'window'; write rate_limit(lim",
    ),
    "rate of rate_limit": (
        lambda: untyped_rate_limit("5/minute", 60),
        ConfigError,
        "write RateLimit('5/minute')",
    ),
    "times of rate_limit": (
        lambda: untyped_rate_limit(times=2, seconds=5),
        TypeError,
        'write RateLimit("2 per 5 s")',
    ),
    "key of rate_limit": (
        lambda: untyped_rate_limit(5, 60, key="global"),
        TypeError,
        'write RateLimit("5/minute", ...), which has this argument',
    ),
    "concurrency as an algorithm": (
        lambda: untyped("5/minute", algorithm="concurrency"),
        ConfigError,
        "write ConcurrencyLimit(10)",
    ),
    "algorithm by another limiter's name": (
        lambda: untyped("5/minute", algorithm="moving-window"),
        ConfigError,
        "sliding_window, sliding_log, concurrency; did you mean sliding_log?",
    ),
    "algorithm with another spelling": (
        lambda: untyped_limit.rate("5/minute", algorithm="Fixed Window"),
        ConfigError,
        "; did you mean fixed_window?",
    ),
    "class of limits as a middleware": (
        lambda: serve(RateLimit, "5/minute"),
        ConfigError,
        "RateLimit is no middleware: write @app.get(..., dependencies=[Depends(RateLimit(...))])",
    ),
    "limit in an annotation": (
        lambda: route_with(Annotated[Reservation, RateLimit("5/minute")]),
        ConfigError,
        "write Annotated[Reservation, Depends(RateLimit('5/minute'))]",
    ),
    "limit as an annotation": (
        lambda: route_with(RateLimit("5/minute")),
        ConfigError,
        "write Annotated[Reservation, Depends(RateLimit('5/minute'))]",
    ),
    "class of limits as an annotation": (
        lambda: route_with(RateLimit),
        ConfigError,
        "write Annotated[Reservation, Depends(RateLimit(...))]",
    ),
    "caller without Depends": (
        lambda: route_with(Caller),
        ConfigError,
        "FastAPI cannot read a Caller from a request: write the parameter as caller: DepCaller",
    ),
    "limiter without Depends": (
        lambda: route_with(Fleetlimit),
        ConfigError,
        "FastAPI cannot read a Fleetlimit from a request: write the parameter as limits: DepLim",
    ),
    "rate of a concurrency limit": (
        lambda: untyped_concurrency("4/minute"),
        ConfigError,
        'write ConcurrencyLimit(4) for 4 at a time, or RateLimit("4/minute")',
    ),
    "no number of a concurrency limit": (
        untyped_concurrency,
        TypeError,
        "write ConcurrencyLimit(10)",
    ),
    "lease of a concurrency limit": (
        lambda: untyped_concurrency(4, ttl=30),
        TypeError,
        "has no argument 'ttl': write lease=",
    ),
    # Arguments of other limiters, and misspelt ones.
    "key_func": (
        lambda: untyped("5/minute", key_func=len),
        TypeError,
        "has no argument 'key_func': write key=\"client_address\", or a function",
    ),
    "identifier": (lambda: untyped("5/minute", identifier=len), TypeError, "write key="),
    "callback": (lambda: untyped("5/minute", callback=len), TypeError, "write on_rejected="),
    "exempt_when": (lambda: untyped("5/minute", exempt_when=len), TypeError, "write exempt="),
    "scope": (lambda: untyped("5/minute", scope="a"), TypeError, "write name=: the routes whose"),
    "misspelt argument": (
        lambda: untyped("5/minute", algoritm="fixed_window"),
        TypeError,
        "has no argument 'algoritm': write algorithm=",
    ),
    "misspelt argument of others": (
        lambda: untyped("5/minute", key_fun=len),
        TypeError,
        "has no argument 'key_fun': write key=\"client_address\"",
    ),
    "unknown argument": (
        lambda: untyped("5/minute", zzz=1),
        TypeError,
        "has no argument 'zzz': write RateLimit(\"5/minute\", burst=10)",
    ),
    # Places.
    "dependencies of a route": (
        lambda: route(dependencies=[RateLimit("5/minute")]),
        ConfigError,
        BARE,
    ),
    "dependencies of an app": (
        lambda: FastAPI(dependencies=[RateLimit("5/minute")]).get("/")(len),  # type: ignore[list-item]
        ConfigError,
        BARE,
    ),
    "dependencies of a router": (
        lambda: include(APIRouter(dependencies=[RateLimit("5/minute")])),  # type: ignore[list-item]
        ConfigError,
        BARE,
    ),
    "dependencies of an included router": (
        lambda: include(APIRouter(), dependencies=[RateLimit("5/minute")]),
        ConfigError,
        BARE,
    ),
    "class in dependencies": (
        lambda: route(dependencies=[RateLimit]),
        ConfigError,
        "dependencies=[RateLimit] is not wrapped: write dependencies=[Depends(RateLimit(...))]",
    ),
    "policy in dependencies": (
        lambda: route(dependencies=[PolicyLimit("exports")]),
        ConfigError,
        "dependencies=[PolicyLimit('exports')] is not wrapped",
    ),
    "class in Depends": (
        lambda: route(dependencies=[Depends(RateLimit)]),
        ConfigError,
        'Depends(RateLimit) has no limit: write Depends(RateLimit("5/minute"))',
    ),
    "class of concurrency in Depends": (
        lambda: route(dependencies=[Depends(ConcurrencyLimit)]),
        ConfigError,
        "Depends(ConcurrencyLimit) has no limit: write Depends(ConcurrencyLimit(10))",
    ),
    "class of a policy in Depends": (
        lambda: route(dependencies=[Depends(PolicyLimit)]),
        ConfigError,
        'Depends(PolicyLimit) has no limit: write Depends(PolicyLimit("exports"))',
    ),
    "class of the app's own in Depends": (
        lambda: start(dependencies=[Depends(OwnLimit)]),
        ConfigError,
        "Depends(OwnLimit) has no limit: write Depends(OwnLimit(...)) with its arguments",
    ),
    "function in Depends": (
        lambda: route(dependencies=[Depends(rate_limit)]),
        ConfigError,
        "Depends(rate_limit) has no limit: write Depends(rate_limit(limit=5, window=60))",
    ),
    "decorator": (lambda: untyped("5/minute")(route), TypeError, NOT_A_DECORATOR),
    "decorator of a policy": (lambda: untyped_policy_limit("a")(route), TypeError, NOT_A_DECORATOR),
    "decorator of concurrency": (lambda: untyped_concurrency(1)(route), TypeError, NOT_A_DECORATOR),
    "decorator of slowapi": (
        lambda: untyped_fleetlimit().limiter.limit("5/minute"),
        AttributeError,
        "has no attribute 'limit': write dependencies=[Depends(RateLimit(\"5/minute\"))] on the r",
    ),
    "exemption of slowapi": (
        lambda: untyped_fleetlimit().limiter.exempt(route),
        AttributeError,
        "'Limiter' has no attribute 'exempt': write dependencies=[Depends(RateLimit(\"5/minute\"))",
    ),
    "limit as a middleware": (lambda: serve(RateLimit("5/minute")), TypeError, NOT_A_DECORATOR),
    "lifespan as a class": (
        lambda: TestClient(FastAPI(lifespan=untyped_fleetlimit)).__enter__(),
        ConfigError,
        "lifespan=Fleetlimit is the class: write lifespan=Fleetlimit()",
    ),
    "lifespan as a middleware": (
        lambda: serve(untyped_fleetlimit),
        ConfigError,
        "write FastAPI(lifespan=Fleetlimit()) and app.add_middleware(RateLimitMiddleware)",
    ),
    # Policies.
    "policy without a name": (
        untyped_policy_limit,
        TypeError,
        'write PolicyLimit("exports"), with the name of a policy of the policy file',
    ),
    "policy that is not text": (
        lambda: untyped_policy_limit(5),
        ConfigError,
        'PolicyLimit(5) has no name of a policy: write PolicyLimit("exports")',
    ),
    "rate of a policy": (
        lambda: untyped_policy_limit("a", rate="5/minute"),
        TypeError,
        "has no argument 'rate': write it in the policy, in the policy file",
    ),
    "no policies": (
        lambda: start(dependencies=[Depends(PolicyLimit("exports"))]),
        ConfigError,
        "there is no policy 'exports' in code: none; write FastAPI(lifespan=Fleetlimit(policies=",
    ),
    "other policies": (
        lambda: start(
            policies=PolicySet([Policy("export", "5/minute")]),
            dependencies=[Depends(PolicyLimit("exports"))],
        ),
        ConfigError,
        "there is no policy 'exports' in code: export",
    ),
    "rate as a policy": (
        lambda: start(dependencies=[Depends(PolicyLimit("5/minute"))]),
        ConfigError,
        'for a limit in code write RateLimit("5/minute")',
    ),
    "number as a limit": (
        lambda: untyped_policy("a", 5),
        ConfigError,
        '5 is no limit: write "5/minute", or Limit.rate("5/minute", burst=10)',
    ),
    "numbers as limits": (lambda: untyped_policy("a", [5]), ConfigError, "5 is no limit"),
    "limit without a kind": (
        lambda: untyped_limit("5/minute"),
        ConfigError,
        'write Limit.rate("5/minute") or Limit.concurrent(10)',
    ),
    "set of a file": (
        lambda: untyped_set("policies.yaml"),
        ConfigError,
        'write PolicySet([Policy(...)]), or Fleetlimit(policies="policies.yaml") for a file',
    ),
    "set of one policy": (
        lambda: untyped_set(Policy("a", "5/minute")),
        ConfigError,
        "write PolicySet([Policy(...)])",
    ),
    "set of names": (lambda: untyped_set(["a"]), ConfigError, "'a' is no policy: write Policy("),
    "list of policies": (
        lambda: untyped_fleetlimit(policies=[Policy("a", "5/minute")]),
        ConfigError,
        "policies: write the path of a policy file, or PolicySet(...)",
    ),
    # The middleware.
    "called middleware": (
        lambda: serve(untyped_middleware()),
        TypeError,
        "write app.add_middleware(RateLimitMiddleware), without calling it",
    ),
    "middleware of nothing": (lambda: untyped_middleware(None), ConfigError, MIDDLEWARE),
    "policies of the middleware": (
        lambda: serve(untyped_middleware, "policies.yaml"),
        TypeError,
        MIDDLEWARE,
    ),
    "named policies of the middleware": (
        lambda: untyped_middleware(FastAPI(), policies="policies.yaml"),
        TypeError,
        FOR_LIFESPAN,
    ),
    "rate of the middleware": (
        lambda: untyped_middleware(FastAPI(), calls=5, period=60),
        TypeError,
        FOR_LIFESPAN,
    ),
    "limiter of the middleware": (
        lambda: untyped_middleware(FastAPI(), http_limiter=Fleetlimit()),
        ConfigError,
        "write http_limiter=fleetlimit.http_limiter",
    ),
    "default of a parameter": (
        lambda: start_endpoint(unwrapped),
        ConfigError,
        "the parameter limit=RateLimit('5/minute') limits nothing: write limit=Depends(RateLimit(",
    ),
    "default of a dependency's parameter": (
        lambda: start(dependencies=[Depends(unwrapped)]),
        ConfigError,
        "the parameter limit=RateLimit('5/minute') limits nothing: write limit=Depends(RateLimit(",
    ),
    "limit of a job without a name": (
        lambda: asyncio.run(check_by_hand(RateLimit("5/minute"))),
        ConfigError,
        'or for a limit in code RateLimit(..., name="...")',
    ),
    # What a policy matches.
    "match of a path": (
        lambda: untyped_policy("a", "5/minute", match="/exports"),
        ConfigError,
        'match=\'/exports\' is not a Match: write Match(methods=["POST"], routes=["/exports"])',
    ),
    "match of a mapping": (
        lambda: untyped_policy("a", "5/minute", match={"routes": ["/exports"]}),
        ConfigError,
        "is not a Match: write Match(",
    ),
    "match without a slash": (
        lambda: Match(routes=["exports"]),
        ConfigError,
        "'exports' matches no route: write a template such as /exports",
    ),
    "match of an unknown method": (
        lambda: Match(methods=["POTS"]),
        ConfigError,
        "'POTS' is not a method: write CONNECT, DELETE, GET",
    ),
    "match of a number": (
        lambda: untyped_match(tiers=[3]),
        ConfigError,
        'tiers is a list of texts, without 3: write Match(tiers=["pro"])',
    ),
    "match of one route": (
        lambda: untyped_match(route="/exports"),
        TypeError,
        "Match() has no argument 'route': write routes=",
    ),
    # The store and the settings.
    "policy file": (
        lambda: Fleetlimit("policies.yaml"),
        ConfigError,
        "is a policy file and not a store: write Fleetlimit(policies='policies.yaml')",
    ),
    "redis_url": (
        lambda: untyped_fleetlimit(redis_url="redis://localhost"),
        TypeError,
        "has no argument 'redis_url': write store=\"redis://localhost:6379/0\"",
    ),
    "storage_uri": (
        lambda: untyped_fleetlimit(storage_uri="redis://localhost"),
        TypeError,
        'write store="redis://localhost:6379/0"',
    ),
    "address without a scheme": (
        lambda: Fleetlimit("localhost:6379"),
        ConfigError,
        "'localhost:6379' is not a store: write memory://, redis://host:6379/0",
    ),
    "client of Redis": (
        lambda: untyped_fleetlimit(redis.asyncio.Redis()),
        ConfigError,
        "store: write the URL of a store as text, such as redis://host:6379/0",
    ),
    "setting as an argument": (
        lambda: untyped_fleetlimit(key_secret="a" * 16),
        TypeError,
        "write settings=Settings(key_secret=...)",
    ),
    "default_limits": (
        lambda: untyped_fleetlimit(default_limits=["5/minute"]),
        TypeError,
        "write a policy named default in the policies, and app.add_middleware(RateLimitMiddleware)",
    ),
    "slowapi's Limiter": (lambda: untyped_limiter(key_func=len), TypeError, AS_LIFESPAN),
    "Limiter of nothing": (untyped_limiter, TypeError, AS_LIFESPAN),
}


def test_object_that_holds_a_limiter_may_be_a_model_of_pydantic() -> None:
    """A model that accepts arbitrary types has a field for it, as for any other class."""

    class Services(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        limits: Fleetlimit

    limits = Fleetlimit("memory://")
    assert Services(limits=limits).limits is limits
    with pytest.raises(ValidationError):
        Services.model_validate({"limits": "memory://"})


@pytest.mark.parametrize("name", MISUSES)
@pytest.mark.filterwarnings("ignore:coroutine")
def test_misuse_says_what_to_write(name: str) -> None:
    """The error is of the documented class, and contains the call to write."""
    misuse, kind, message = MISUSES[name]
    with pytest.raises(kind) as caught:
        misuse()
    assert message in str(caught.value)


@pytest.mark.parametrize("name", OTHER_LIMITERS)
def test_import_of_another_limiters_name_says_what_to_write(name: str) -> None:
    """`from fleetlimit import RateLimiter` has the name of what to use here."""
    with pytest.raises(ImportError, match=f"fleetlimit has no {name}: write "):
        exec(f"from fleetlimit import {name}")  # noqa: S102 - an import statement with its name
    assert name not in fleetlimit.__all__


def test_advice_is_about_arguments_that_exist() -> None:
    """A keyword argument that the advice names is one of the call that it names."""
    parameters = {
        name
        for call in (RateLimit, ConcurrencyLimit, PolicyLimit, Fleetlimit, RateLimitMiddleware)
        for name in inspect.signature(call).parameters
    }
    named = {"key", "cost", "name", "algorithm", "exempt", "count", "lease"}
    assert named | {"store", "policies", "resolver", "on_rejected"} <= parameters
    assert {"headers", "key_prefix"} <= Settings.model_fields.keys()


def test_advised_functions_keep_their_signature() -> None:
    """FastAPI, editors and `help` see the arguments of the function itself."""
    assert next(iter(inspect.signature(RateLimit).parameters)) == "rate"
    assert [*inspect.signature(rate_limit).parameters] == ["limit", "window"]
    assert not hasattr(RateLimit("5/minute"), "dependency")


def test_error_of_the_function_itself_is_unchanged() -> None:
    """A `TypeError` from inside the function has no advice."""

    @advised("nothing", {})
    def fail(value: object) -> None:
        raise TypeError(f"inner {value}")

    with pytest.raises(TypeError, match=r"^inner 1$"):
        fail(1)

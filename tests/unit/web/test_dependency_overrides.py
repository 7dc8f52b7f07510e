"""`dependency_overrides` of FastAPI: the middleware and the other limits obey it, too."""

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench

ONE = RateLimit("1/minute")
MANY = RateLimit("100/minute")


def session(_limit: Annotated[Reservation, Depends(ONE)]) -> None: ...


def session_of_tests() -> None: ...


def no_limit() -> None: ...


def _client(*limits: Callable[..., Any], middleware: bool) -> TestClient:
    """Return a client of an app with one route of its own, one of a router and one of a mount."""
    app, mounted, router = FastAPI(), FastAPI(), APIRouter()
    depends = [Depends(each) for each in limits]
    for each in (app, mounted, router):
        each.get("/items", dependencies=depends)(no_limit)
    app.include_router(router, prefix="/v1")
    app.mount("/sub", mounted)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    mounted.dependency_overrides = app.dependency_overrides
    return TestClient(LimiterBench().install(app))


def _statuses(client: TestClient, path: str) -> list[int]:
    return [client.get(path).status_code for _ in range(3)]


@pytest.mark.parametrize("middleware", [True, False])
@pytest.mark.parametrize("path", ["/items", "/v1/items", "/sub/items"])
@pytest.mark.parametrize(
    ("limits", "replaced", "replacement"),
    [
        ([ONE], ONE, no_limit),
        ([ONE], ONE, MANY),
        ([MANY, ONE], ONE, no_limit),
        ([ONE, MANY], ONE, lambda: None),
        ([session], session, session_of_tests),
        ([session], ONE, no_limit),
        ([PolicyLimit("exports")], PolicyLimit, no_limit),
    ],
)
def test_overridden_limit_does_not_apply(
    *, limits: list[Any], replaced: Any, replacement: Any, path: str, middleware: bool
) -> None:
    """An override replaces a limit, or the dependency that has it, at both doors."""
    client = _client(*limits, middleware=middleware)
    replaced = limits[0] if replaced is PolicyLimit else replaced
    client.app.dependency_overrides[replaced] = replacement  # type: ignore[attr-defined]
    assert _statuses(client, path) == [200, 200, 200]


@pytest.mark.parametrize("middleware", [True, False])
def test_limit_that_replaces_a_dependency_applies(*, middleware: bool) -> None:
    """A limit that an override brings in applies, and ends with the override."""
    client = _client(MANY, middleware=middleware)
    overrides = client.app.dependency_overrides  # type: ignore[attr-defined]
    overrides[MANY] = ONE
    assert _statuses(client, "/items") == [200, 429, 429]
    overrides[MANY] = session
    assert _statuses(client, "/items") == [429, 429, 429]
    overrides.clear()
    assert _statuses(client, "/items") == [200, 200, 200]


@pytest.mark.parametrize("middleware", [True, False])
def test_dependency_that_looks_like_a_limit_is_not_one(*, middleware: bool) -> None:
    """A dependency of the app with the attributes of a limit is called and nothing else."""

    class Order:
        cost = 7
        policy = "exports"
        name = "order"

        def __call__(self) -> int:
            return self.cost

    client = _client(Order(), ONE, middleware=middleware)
    assert _statuses(client, "/items") == [200, 429, 429]

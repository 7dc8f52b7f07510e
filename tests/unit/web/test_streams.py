"""Streams pass unbuffered, and a request returns its concurrency units however it ends."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from starlette.background import BackgroundTask
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Match, Policy
from fleetlimit.core.quota import concurrency_quota
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.eventually import eventually_async
from support.web import Exchange, LimiterBench, collect_messages, http_scope

IN_FLIGHT = Policy(
    "in-flight",
    (concurrency_quota(2),),
    key=(KeyPart(KeyKind.GLOBAL),),
    match=Match(),
)
AppFactory = Callable[[LimiterBench], FastAPI]


def by_middleware(bench: LimiterBench) -> FastAPI:
    app = bench.install(FastAPI())
    app.add_middleware(RateLimitMiddleware)
    return app


def by_dependency(bench: LimiterBench) -> FastAPI:
    return bench.install(FastAPI(dependencies=[Depends(PolicyLimit("in-flight"))]))


by_both = pytest.mark.parametrize("make_app", [by_middleware, by_dependency])


@by_both
async def test_chunks_are_not_buffered(make_app: AppFactory) -> None:
    """The client has the first chunk before the last one is made (slowapi #249, #260)."""
    proceed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        await proceed.wait()
        yield b"data: last\n\n"

    async with LimiterBench(IN_FLIGHT) as bench:
        app = make_app(bench)

        @app.get("/events")
        async def events() -> StreamingResponse:
            return StreamingResponse(chunks(), media_type="text/event-stream")

        async with Exchange(app, http_scope("/events")) as exchange:
            start = await exchange.next()
            assert start["status"] == 200
            first = await exchange.next()
            assert first["body"] == b"data: first\n\n"
            assert first["more_body"] is True
            proceed.set()
            assert (await exchange.end())[0]["body"] == b"data: last\n\n"


async def test_unit_is_held_until_the_stream_ends() -> None:
    """A request in progress counts until its stream has ended, and no longer."""
    proceed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await proceed.wait()

    async with LimiterBench(IN_FLIGHT) as bench:
        app = by_middleware(bench)

        @app.get("/events")
        async def events() -> StreamingResponse:
            return StreamingResponse(chunks())

        streams = [Exchange(app, http_scope("/events")) for _ in range(2)]
        async with streams[0], streams[1]:
            for stream in streams:
                assert [(await stream.next())["type"] for _ in range(2)] == [
                    "http.response.start",
                    "http.response.body",
                ]
            rejected = await collect_messages(app, http_scope("/events"))
            assert rejected[0]["status"] == 429
            assert await bench.in_flight("in-flight") == 2
            proceed.set()
            for stream in streams:
                await stream.end()
        assert await bench.in_flight("in-flight") == 0


@by_both
async def test_disconnect_returns_the_unit(make_app: AppFactory) -> None:
    """A client that disconnects during a stream returns its unit."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with LimiterBench(IN_FLIGHT) as bench:
        app = make_app(bench)

        @app.get("/events")
        async def events() -> StreamingResponse:
            return StreamingResponse(chunks())

        async with Exchange(app, http_scope("/events")) as exchange:
            await exchange.next()
            await exchange.next()
            exchange.disconnect()
            await exchange.end()
        assert await bench.in_flight("in-flight") == 0


@by_both
async def test_endpoint_error_returns_the_unit(make_app: AppFactory) -> None:
    """An endpoint that raises returns its unit, and its error is unchanged."""
    async with LimiterBench(IN_FLIGHT) as bench:
        app = make_app(bench)

        @app.get("/broken")
        async def broken() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await collect_messages(app, http_scope("/broken"))
        assert await bench.in_flight("in-flight") == 0


@by_both
async def test_unit_is_released_before_background_tasks(make_app: AppFactory) -> None:
    """Background tasks run after the response, and then no unit is held."""
    in_flight: list[int] = []
    async with LimiterBench(IN_FLIGHT) as bench:
        app = make_app(bench)

        async def measure() -> None:
            in_flight.append(await bench.in_flight("in-flight"))

        @app.get("/items")
        async def items(tasks: BackgroundTasks) -> None:
            tasks.add_task(measure)

        sent = await collect_messages(app, http_scope("/items"))
        assert sent[0]["status"] == 200
        assert in_flight == [0]
        assert await bench.in_flight("in-flight") == 0


async def test_middleware_releases_the_unit_before_the_background_of_a_response() -> None:
    """A response's own `background` task, and a stream's, run without a unit."""
    in_flight: list[int] = []
    async with LimiterBench(IN_FLIGHT) as bench:
        app = by_middleware(bench)

        async def measure() -> None:
            in_flight.append(await bench.in_flight("in-flight"))

        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(2):
                await measure()
                yield b"chunk"

        @app.get("/stream")
        async def stream() -> StreamingResponse:
            return StreamingResponse(chunks(), background=BackgroundTask(measure))

        await collect_messages(app, http_scope("/stream"))
        assert in_flight == [1, 1, 0]


@pytest.mark.parametrize("has_stack", [True, False])
@pytest.mark.parametrize("error", [HTTPException(401), ZeroDivisionError()])
async def test_unit_is_released_when_a_dependency_between_fails(
    error: Exception,
    has_stack: bool,  # noqa: FBT001 - a case
) -> None:
    """The first limit of a route checks all; the limit that holds the unit may never run.

    Without FastAPI's exit stack in the scope, as before FastAPI 0.118, the reservation is
    released when it is dropped.
    """

    async def fail(request: Request) -> None:
        if not has_stack:
            stack = request.scope.get("fastapi_inner_astack")
            if stack is not None:
                stack.pop_all()
        raise error

    async with LimiterBench(IN_FLIGHT) as bench:
        app = bench.install(FastAPI())
        limits = [RateLimit("9/minute", key="global"), PolicyLimit("in-flight")]

        @app.get("/items", dependencies=[Depends(limits[0]), Depends(fail), Depends(limits[1])])
        async def items() -> None: ...

        for _ in range(4):
            with contextlib.suppress(ZeroDivisionError):
                sent = await collect_messages(app, http_scope("/items"))
                assert sent[0]["status"] == 401
            error.__traceback__ = None
        gc.collect()

        async def is_free() -> bool:
            return await bench.in_flight("in-flight") == 0

        await eventually_async(is_free)


@by_both
async def test_rejected_credential_holds_no_unit(make_app: AppFactory) -> None:
    """A request that is rejected for its credential holds no unit."""
    async with LimiterBench(IN_FLIGHT, reject_invalid=True) as bench:
        app = make_app(bench)

        @app.get("/items")
        async def items() -> None: ...

        sent = await collect_messages(
            app, http_scope("/items", headers=[(b"x-caller", b"invalid")])
        )
        assert sent[0]["status"] == 401
        assert await bench.in_flight("in-flight") == 0


def _cancelling(app: ASGIApp, started: anyio.Event) -> ASGIApp:
    """Cancel the app for good once it has started: every await of it raises from then on.

    `BaseHTTPMiddleware` does so when the client is gone.
    """

    async def cancelling(scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await app(scope, receive, send)

            group.start_soon(run)
            await started.wait()
            group.cancel_scope.cancel()

    return cancelling


@by_both
async def test_cancelled_request_returns_the_unit(make_app: AppFactory) -> None:
    """A request that is cancelled from outside returns its unit."""
    started = anyio.Event()
    async with LimiterBench(IN_FLIGHT) as bench:
        app = make_app(bench)

        @app.get("/slow")
        async def slow() -> None:
            started.set()
            await anyio.sleep_forever()

        await collect_messages(_cancelling(app, started), http_scope("/slow"))
        assert await bench.in_flight("in-flight") == 0


async def test_cancelled_request_returns_units_of_both_checks() -> None:
    """Units of the middleware's and of a dependency's check are both returned."""
    started = anyio.Event()
    other = Policy("other", (concurrency_quota(2),), key=(KeyPart(KeyKind.GLOBAL),))

    async def slow() -> None:
        started.set()
        await anyio.sleep_forever()

    async with LimiterBench(IN_FLIGHT, other) as bench:
        app = by_middleware(bench)
        assert (await collect_messages(app, http_scope("/late")))[0]["status"] == 404
        # The route table was built before this route was added.
        app.get("/late", dependencies=[Depends(PolicyLimit("other"))])(slow)
        await collect_messages(_cancelling(app, started), http_scope("/late"))
        assert await bench.in_flight("in-flight") == 0
        assert await bench.in_flight("other") == 0


async def test_reservation_as_context_manager_releases_once() -> None:
    """The unit of an endpoint's reservation is returned once, at the end of the block."""
    async with LimiterBench(IN_FLIGHT) as bench:
        app = bench.install(FastAPI())
        in_flight: list[Any] = []

        @app.get("/items")
        async def items(
            limit: Annotated[Reservation, Depends(PolicyLimit("in-flight"))],
        ) -> None:
            async with limit:
                in_flight.append(await bench.in_flight("in-flight"))
            in_flight.append(await bench.in_flight("in-flight"))

        await collect_messages(app, http_scope("/items"))
        assert in_flight == [1, 0]
        assert await bench.in_flight("in-flight") == 0

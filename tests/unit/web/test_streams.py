"""Streams pass unbuffered, and what a request holds it gives back, however it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.core.policy import KeyKind, KeyPart, Match, Policy
from fleetlimit.core.quota import concurrency_quota
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.web.dependency import PolicyLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import Exchange, LimiterBench, collect_messages, http_scope

IN_FLIGHT = Policy(
    "in-flight",
    (concurrency_quota(2),),
    key=(KeyPart(KeyKind.GLOBAL),),
    match=Match(),
)
Door = Callable[[LimiterBench], FastAPI]


def by_middleware(bench: LimiterBench) -> FastAPI:
    app = bench.install(FastAPI())
    app.add_middleware(RateLimitMiddleware)
    return app


def by_dependency(bench: LimiterBench) -> FastAPI:
    return bench.install(FastAPI(dependencies=[Depends(PolicyLimit("in-flight"))]))


doors = pytest.mark.parametrize("door", [by_middleware, by_dependency])


@doors
async def test_first_chunk_before_the_last_is_made(door: Door) -> None:
    """The client has the first chunk while the last is not made yet (slowapi #249, #260)."""
    go_on = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: first\n\n"
        await go_on.wait()
        yield b"data: last\n\n"

    async with LimiterBench(IN_FLIGHT) as bench:
        app = door(bench)

        @app.get("/events")
        async def events() -> StreamingResponse:
            return StreamingResponse(chunks(), media_type="text/event-stream")

        async with Exchange(app, http_scope("/events")) as exchange:
            start = await exchange.next()
            assert start["status"] == 200
            first = await exchange.next()
            assert first["body"] == b"data: first\n\n"
            assert first["more_body"] is True
            go_on.set()
            assert (await exchange.end())[0]["body"] == b"data: last\n\n"


async def test_lease_lasts_as_long_as_the_stream() -> None:
    """A request in flight is counted until its stream has ended, and no longer."""
    go_on = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await go_on.wait()

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
            refused = await collect_messages(app, http_scope("/events"))
            assert refused[0]["status"] == 429
            assert await bench.in_flight("in-flight") == 2
            go_on.set()
            for stream in streams:
                await stream.end()
        assert await bench.in_flight("in-flight") == 0


@doors
async def test_client_that_goes_away(door: Door) -> None:
    """A client that goes away amid a stream gives its place back."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async with LimiterBench(IN_FLIGHT) as bench:
        app = door(bench)

        @app.get("/events")
        async def events() -> StreamingResponse:
            return StreamingResponse(chunks())

        async with Exchange(app, http_scope("/events")) as exchange:
            await exchange.next()
            await exchange.next()
            exchange.disconnect()
            await exchange.end()
        assert await bench.in_flight("in-flight") == 0


@doors
async def test_endpoint_that_fails(door: Door) -> None:
    """An endpoint that raises gives its place back, and its error is its own."""
    async with LimiterBench(IN_FLIGHT) as bench:
        app = door(bench)

        @app.get("/broken")
        async def broken() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await collect_messages(app, http_scope("/broken"))
        assert await bench.in_flight("in-flight") == 0


@doors
async def test_background_tasks(door: Door) -> None:
    """Background tasks run after the response as ever, and then nothing is held."""
    ran: list[str] = []
    async with LimiterBench(IN_FLIGHT) as bench:
        app = door(bench)

        @app.get("/items")
        async def items(tasks: BackgroundTasks) -> None:
            tasks.add_task(ran.append, "task")

        sent = await collect_messages(app, http_scope("/items"))
        assert sent[0]["status"] == 200
        assert ran == ["task"]
        assert await bench.in_flight("in-flight") == 0


@doors
async def test_refused_credential_holds_nothing(door: Door) -> None:
    """A request that is refused for its credential holds no place."""
    async with LimiterBench(IN_FLIGHT, reject_invalid=True) as bench:
        app = door(bench)

        @app.get("/items")
        async def items() -> None: ...

        sent = await collect_messages(app, http_scope("/items", headers=[(b"x-caller", b"nobody")]))
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


@doors
async def test_cancelled_from_outside(door: Door) -> None:
    """A request that something outside cancels for good still gives its place back."""
    started = anyio.Event()
    async with LimiterBench(IN_FLIGHT) as bench:
        app = door(bench)

        @app.get("/slow")
        async def slow() -> None:
            started.set()
            await anyio.sleep_forever()

        await collect_messages(_cancelling(app, started), http_scope("/slow"))
        assert await bench.in_flight("in-flight") == 0


async def test_two_places_are_given_back_when_cancelled() -> None:
    """Places that middleware and dependency took one after the other are both given back."""
    started = anyio.Event()
    other = Policy("other", (concurrency_quota(2),), key=(KeyPart(KeyKind.GLOBAL),))

    async def slow() -> None:
        started.set()
        await anyio.sleep_forever()

    async with LimiterBench(IN_FLIGHT, other) as bench:
        app = by_middleware(bench)
        assert (await collect_messages(app, http_scope("/late")))[0]["status"] == 404
        # The middleware does not know of a limit on a route that is added now.
        app.get("/late", dependencies=[Depends(PolicyLimit("other"))])(slow)
        await collect_messages(_cancelling(app, started), http_scope("/late"))
        assert await bench.in_flight("in-flight") == 0
        assert await bench.in_flight("other") == 0


async def test_release_by_hand_is_not_needed_twice() -> None:
    """A place that the endpoint's reservation belongs to is given back once, by its request."""
    async with LimiterBench(IN_FLIGHT) as bench:
        app = bench.install(FastAPI())
        held: list[Any] = []

        @app.get("/items")
        async def items(
            limit: Annotated[Reservation, Depends(PolicyLimit("in-flight"))],
        ) -> None:
            async with limit:
                held.append(await bench.in_flight("in-flight"))
            held.append(await bench.in_flight("in-flight"))

        await collect_messages(app, http_scope("/items"))
        assert held == [1, 1]
        assert await bench.in_flight("in-flight") == 0

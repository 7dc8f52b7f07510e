"""Transports that limit outgoing calls, with httpx and httpx2."""

import asyncio
import importlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import httpx2
import pytest

import fleetlimit.httpx
import fleetlimit.httpx2
from fleetlimit import ConfigError, Fleetlimit, Policy, PolicySet
from fleetlimit.core.quota import concurrency_quota
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.testing import ManualClock
from support.eventually import eventually_async

POLICIES = PolicySet(
    [
        Policy("provider", "2/minute"),
        Policy("all", "3/minute", key="global"),
        Policy("slots", concurrency_quota(1, lease=30), key="global"),
    ]
)
LIBRARIES: list[Any] = [(httpx, fleetlimit.httpx), (httpx2, fleetlimit.httpx2)]
Handler = Callable[[Any], Any]
libraries = pytest.mark.parametrize(("lib", "own"), LIBRARIES, ids=["httpx", "httpx2"])


class Bench:
    """A limiter on a clock, and a service that answers with the given fields."""

    def __init__(self, lib: Any, own: Any) -> None:
        self.lib, self.own = lib, own
        self.clock = ManualClock()
        self.limits = Fleetlimit(policies=POLICIES, clock=self.clock)
        self.status = 200
        self.fields: dict[str, str] = {}
        self.calls: list[str] = []
        self.stream: Callable[[], Any] | None = None

    def handle(self, request: Any) -> Any:
        """Answer a call, with a body that is read before or as a stream."""
        self.calls.append(request.url.host)
        content = self.stream() if self.stream is not None else b"ok"
        return self.lib.Response(self.status, headers=self.fields, content=content)

    def transport(self, **options: Any) -> Any:
        """Return a transport to the service."""
        options.setdefault("policy", "provider")
        return self.own.RateLimitTransport(
            self.lib.MockTransport(self.handle), self.limits, clock=self.clock, **options
        )


@libraries
async def test_calls_are_limited_by_host(lib: Any, own: Any) -> None:
    """Each host has its own limit; a call above it waits for at most `timeout`."""
    bench = Bench(lib, own)
    async with bench.limits, lib.AsyncClient(transport=bench.transport(timeout=1)) as client:
        for host in ("a", "a", "b"):
            assert (await client.get(f"http://{host}/")).text == "ok"
        with pytest.raises(own.RateLimitTimeout) as caught:
            await client.get("http://a/")
    assert caught.value.retry_after == pytest.approx(30)
    assert isinstance(caught.value, lib.TransportError)
    assert caught.value.request.url.host == "a"
    assert bench.calls == ["a", "a", "b"]


@libraries
async def test_call_waits_for_units(lib: Any, own: Any) -> None:
    """A call is sent when its limit has units again."""
    bench = Bench(lib, own)
    async with bench.limits, lib.AsyncClient(transport=bench.transport(policy="all")) as client:
        for host in "abc":
            await client.get(f"http://{host}/")
        waiting = asyncio.ensure_future(client.get("http://d/"))
        await eventually_async(lambda: bench.clock.sleepers)
        bench.clock.advance(20)
        assert (await waiting).status_code == 200


@libraries
@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (429, {"Retry-After": "20"}),
        (503, {"Retry-After": "20"}),
        (200, {"RateLimit": '"p";r=0;t=20'}),
        (200, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "20"}),
    ],
)
async def test_next_calls_to_a_host_wait_as_it_states(
    lib: Any, own: Any, status: int, fields: dict[str, str]
) -> None:
    """The answer is returned as it is, and further calls to this host wait."""
    bench = Bench(lib, own)
    bench.status, bench.fields = status, fields
    async with bench.limits, lib.AsyncClient(transport=bench.transport()) as client:
        assert (await client.get("http://a/")).status_code == status
        bench.status, bench.fields = 200, {}
        assert (await client.get("http://b/")).status_code == 200
        waiting = asyncio.ensure_future(client.get("http://a/"))
        await eventually_async(lambda: bench.clock.sleepers)
        assert bench.calls == ["a", "b"]
        bench.clock.advance(20)
        assert (await waiting).status_code == 200


@libraries
async def test_stated_wait_is_bounded(lib: Any, own: Any) -> None:
    """A call raises if the wait is too long, and an answer stops calls for an hour at most."""
    bench = Bench(lib, own)
    bench.status, bench.fields = 429, {"Retry-After": "99999999"}
    transport = bench.transport(max_pause=100)
    async with bench.limits, lib.AsyncClient(transport=transport) as client:
        await client.get("http://a/")
        with pytest.raises(own.RateLimitTimeout, match="a accepts no call for 100 s") as caught:
            await client.get("http://a/")
        assert caught.value.retry_after == 100
        bench.clock.advance(100)
        await client.get("http://a/")


@libraries
async def test_wait_that_is_stated_during_another_wait_is_obeyed(lib: Any, own: Any) -> None:
    """A call that has got its units waits for the host, too, and spends them once."""
    bench = Bench(lib, own)
    transport = bench.transport(timeout=None)
    async with bench.limits, lib.AsyncClient(transport=transport) as client:
        for _ in range(2):
            await client.get("http://a/")
        waiting = asyncio.ensure_future(client.get("http://a/"))
        await eventually_async(lambda: bench.clock.sleepers)
        transport._limits.after("a", 429, {"retry-after": "40"})
        bench.clock.advance(30)
        await eventually_async(lambda: bench.clock.sleepers)
        assert len(bench.calls) == 2
        bench.clock.advance(10)
        await waiting
        assert len(bench.calls) == 3


@libraries
async def test_cancelled_call_spends_nothing(lib: Any, own: Any) -> None:
    """A call that is cancelled while it waits leaves its units to others."""
    bench = Bench(lib, own)
    async with bench.limits, lib.AsyncClient(transport=bench.transport()) as client:
        for _ in range(2):
            await client.get("http://a/")
        waiting = asyncio.ensure_future(client.get("http://a/"))
        await eventually_async(lambda: bench.clock.sleepers)
        waiting.cancel()
        await asyncio.wait({waiting})
        bench.clock.advance(30)
        await client.get("http://a/")


@libraries
async def test_concurrency_unit_is_held_until_the_answer_is_closed(lib: Any, own: Any) -> None:
    """A unit is released with the body of the answer, or with a failed call."""
    bench = Bench(lib, own)
    transport = bench.transport(policy=["slots", "all"], timeout=0)
    async with bench.limits, lib.AsyncClient(transport=transport) as client:
        await client.get("http://a/")
        bench.stream = _parts
        async with client.stream("GET", "http://a/") as answer:
            with pytest.raises(own.RateLimitTimeout):
                await client.get("http://a/")
            assert b"".join([part async for part in answer.aiter_bytes()]) == b"part"
        await client.get("http://a/")
        failing = own.RateLimitTransport(
            lib.MockTransport(_fail), bench.limits, policy="slots", timeout=0
        )
        async with lib.AsyncClient(transport=failing) as other:
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    await other.get("http://a/")


@libraries
def test_client_that_is_not_async_is_limited(lib: Any, own: Any) -> None:
    """A `Client` waits in its thread, and starts the limiter with its first call."""
    bench = Bench(lib, own)
    transport = bench.transport(policy=("provider", "slots"), timeout=60)
    with lib.Client(transport=transport) as client:
        for _ in range(2):
            assert client.get("http://a/").text == "ok"
        bench.stream = lambda: iter([b"part"])
        with client.stream("GET", "http://b/") as answer:
            assert answer.read() == b"part"
        done = threading.Event()

        def call() -> None:
            client.get("http://a/")
            done.set()

        thread = threading.Thread(target=call)
        thread.start()
        while not bench.clock.sleepers:
            done.wait(0.001)
        bench.clock.advance(30)
        thread.join()
        bench.fields, bench.status = {"Retry-After": "61"}, 429
        bench.clock.advance(60)
        client.get("http://a/")
        with pytest.raises(own.RateLimitTimeout):
            client.get("http://a/")
        failing = own.RateLimitTransport(
            lib.MockTransport(_fail), bench.limits, policy="slots", timeout=0
        )
        with lib.Client(transport=failing) as other:
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    other.get("http://a/")
    bench.limits.sync().close()


async def _parts() -> AsyncIterator[bytes]:
    yield b"part"


def _fail(_request: Any) -> Any:
    raise ZeroDivisionError


@libraries
async def test_caller_and_cost_are_made_from_the_request(lib: Any, own: Any) -> None:
    """`principal` and `cost` take functions of the request."""
    bench = Bench(lib, own)
    transport = bench.transport(
        principal=lambda request: request.headers["x-account"],
        cost=lambda request: int(request.url.params["cost"]),
        timeout=0,
    )
    async with bench.limits, lib.AsyncClient(transport=transport) as client:
        await client.get("http://a/?cost=2", headers={"x-account": "one"})
        await client.get("http://a/?cost=1", headers={"x-account": "two"})
        with pytest.raises(own.RateLimitTimeout):
            await client.get("http://b/?cost=1", headers={"x-account": "one"})


@libraries
def test_transport_that_cannot_limit_is_an_error(lib: Any, own: Any) -> None:
    """A mistake is an error when the transport is made, or with the first call."""
    limits = Fleetlimit(policies=POLICIES)
    for arguments, options, message in (
        ((), {"policy": "provider"}, "write limits=Fleetlimit"),
        ((None, limits), {}, 'write policy="..."'),
        ((limits,), {"policy": "provider", "limits": limits}, "is no transport"),
        ((5, limits), {"policy": "provider"}, "5 is no transport"),
        ((None, Limiter), {"policy": "provider"}, "is no limiter"),
        ((None, limits), {"policy": "provider", "timeout": -1}, "is not a time to wait"),
    ):
        with pytest.raises(ConfigError, match=message):
            own.RateLimitTransport(*arguments, **options)
    only_async = lib.AsyncHTTPTransport()
    transport = own.RateLimitTransport(only_async, limits, policy="provider")
    with (
        lib.Client(transport=transport) as client,
        pytest.raises(ConfigError, match="is no transport of a client that is not async"),
    ):
        client.get("http://a/")


@libraries
async def test_limiter_must_run(lib: Any, own: Any) -> None:
    """A call before the start says how to start."""
    bench = Bench(lib, own)
    async with lib.AsyncClient(transport=bench.transport()) as client:
        with pytest.raises(ConfigError, match="was not started"):
            await client.get("http://a/")


@libraries
async def test_transport_of_the_library_is_the_default(lib: Any, own: Any) -> None:
    """Without a transport, the library's own sends the calls."""
    limits = Fleetlimit(policies=POLICIES)
    transport = own.RateLimitTransport(limits=limits, policy="provider")
    async with limits, lib.AsyncClient(transport=transport) as client:
        server = await asyncio.start_server(_answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 204
    sync = own.RateLimitTransport(limits=limits, policy="provider")
    with lib.Client(transport=sync):
        pass


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_missing_library_is_named(name: str) -> None:
    """An import without the library says what to install."""
    code = f"import sys; sys.modules[{name!r}] = None; import fleetlimit.{name}"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"fleetlimit.{name} needs {name}: pip install {name}" in ran.stderr
    assert importlib.import_module(f"fleetlimit.{name}").RateLimitTransport


@libraries
async def test_streamed_request_is_sent_once(lib: Any, own: Any) -> None:
    """The body of a request passes through."""
    bench = Bench(lib, own)

    async def echo(request: Any) -> Any:
        return lib.Response(200, content=await request.aread())

    transport = own.RateLimitTransport(lib.MockTransport(echo), bench.limits, policy="all")
    async with bench.limits, lib.AsyncClient(transport=transport) as client:
        assert (await client.post("http://a/", content=_parts())).text == "part"

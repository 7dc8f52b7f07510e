"""An app on a Unix socket: the proxy at the other end names the client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from fleetlimit import Fleetlimit, RateLimitMiddleware
from support.eventually import eventually_async
from support.server import receive

POLICIES = "version: 1\n{}policies: [{{name: default, limits: [{{rate: 1/day}}]}}]\n"


class Server(uvicorn.Server):
    """uvicorn server that leaves signals to pytest."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture nothing."""
        yield


@contextlib.asynccontextmanager
async def serving(directory: Path, identity: str) -> AsyncIterator[Path]:
    """Serve a limited app with uvicorn on a Unix socket, and yield the socket."""
    (directory / "policies.yaml").write_text(POLICIES.format(identity))
    app = FastAPI(lifespan=Fleetlimit(policies=directory / "policies.yaml"))
    app.add_middleware(RateLimitMiddleware)
    app.add_api_route("/", lambda: None)
    path = directory / "app.sock"
    config = uvicorn.Config(app, uds=str(path), log_config=None, proxy_headers=False)
    server = Server(config)
    task = asyncio.get_running_loop().create_task(server.serve())
    await eventually_async(lambda: server.started)
    try:
        yield path
    finally:
        server.should_exit = True
        await task


async def status(socket: Path, client: str) -> int:
    """Send a request as a proxy forwards it, and return the status."""
    reader, writer = await asyncio.open_unix_connection(socket)
    with contextlib.closing(writer):
        writer.write(
            b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n"
            b"X-Forwarded-For: " + client.encode() + b"\r\n\r\n"
        )
        return (await receive(reader)).status


@pytest.mark.parametrize(
    ("identity", "served"),
    [("identity: {trusted_proxies: [unix]}\n", [200, 429, 200]), ("", [200, 429, 429])],
)
async def test_clients_behind_a_unix_socket_are_distinct_with_unix_trusted(
    tmp_path: Path, identity: str, served: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """With `trusted_proxies: [unix]` each client has its bucket; without it a warning is logged."""
    async with serving(tmp_path, identity) as socket:
        clients = ["198.51.100.7", "198.51.100.7", "198.51.100.8"]
        assert [await status(socket, client) for client in clients] == served
    warned = [each for each in caplog.messages if "identity.no_client_address" in each]
    assert len(warned) == (0 if identity else 1)

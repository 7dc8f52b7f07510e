"""Bounds on the requests of both ports of `fleetlimit serve`."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from support.server import ServeProcess, fetch


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[ServeProcess]:
    """Return a service whose clients have little time, and enough on a busy machine."""
    settings = {"FLEETLIMIT_HEAD_TIMEOUT": "2", "FLEETLIMIT_MAX_HEAD_BYTES": "8192"}
    with ServeProcess(settings=settings) as service:
        yield await service.ready()


def ports_of(service: ServeProcess) -> dict[str, int]:
    """Return both ports by the path to request there."""
    return {"/items/1": service.port, "/livez": service.admin_port}


async def test_both_ports_refuse_large_heads(service: ServeProcess) -> None:
    """A head above the setting is refused with 431, and the log names the setting."""
    for path, port in ports_of(service).items():
        assert (await fetch(port, path, headers={"X": "a" * 8_000})).status == 200
        assert (await fetch(port, path, headers={"X": "a" * 8_192})).status == 431
        assert (await fetch(port, path, headers={"X": "a" * 1_000_000})).status == 431
    assert any("FLEETLIMIT_MAX_HEAD_BYTES" in line["event"] for line in service.lines)


async def test_admin_port_rejects_unknown_hosts(service: ServeProcess) -> None:
    """The names of other sites are rejected on the admin port; the API serves any name."""
    evil = {"Host": "evil.example"}
    for path in ("/livez", "/metrics", "/nothing"):
        assert (await fetch(service.admin_port, path, headers=evil)).status == 421
    assert (await fetch(service.port, "/items/1", headers=evil)).status == 200
    assert service.logged("admin.host_rejected")[0]["host"] == "evil.example"


async def test_both_ports_disconnect_slow_clients(service: ServeProcess) -> None:
    """The server itself checks the time limit."""

    async def response(port: int, begin: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(begin)
            return await reader.read()

    begun = [b"", b"GET /livez HTTP/1.1\r\nX"]
    sent = [(port, begin) for port in ports_of(service).values() for begin in begun]
    silent, late, *of_admin_port = await asyncio.gather(*(response(*each) for each in sent))
    assert (silent, of_admin_port[0]) == (b"", b"")
    assert late.startswith(b"HTTP/1.1 408")
    assert of_admin_port[1].startswith(b"HTTP/1.1 408")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the host has no IPv6")
async def test_service_listens_on_all_addresses() -> None:
    """By default both ports are reached by IPv4 and by IPv6."""
    with ServeProcess("--host", "*", "--admin-host", "*") as service:
        await service.ready()
        for path, port in ports_of(service).items():
            for address in ("127.0.0.1", "::1"):
                reader, writer = await asyncio.open_connection(address, port)
                with contextlib.closing(writer):
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: [::1]\r\n\r\n".encode())
                    assert (await reader.readline()).startswith(b"HTTP/1.1 200")

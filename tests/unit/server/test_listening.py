"""Sockets on all addresses."""

import errno
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from fleetlimit.errors import ConfigError
from fleetlimit.server import listening
from fleetlimit.server.listening import bind_all
from support.eventually import PATIENCE_SECONDS

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="the host has no IPv6")


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port that another process uses."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        yield other.getsockname()[1]


@needs_ipv6
def test_both_families_have_one_port() -> None:
    """A client reaches the same port by IPv4 and by IPv6."""
    sockets = bind_all(0)
    try:
        assert [each.family for each in sockets] == [socket.AF_INET, socket.AF_INET6]
        assert len({each.getsockname()[1] for each in sockets}) == 1
        for each in sockets:
            each.listen()
        port = sockets[0].getsockname()[1]
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port), timeout=PATIENCE_SECONDS).close()
    finally:
        for each in sockets:
            each.close()


def test_used_port_is_an_error(taken: int) -> None:
    """The message names the port and what to do."""
    with pytest.raises(ConfigError, match=rf"cannot listen on port {taken}: .* choose another"):
        bind_all(taken)


@pytest.mark.parametrize("missing", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_host_without_ipv6_has_ipv4_alone(missing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6, or with IPv6 disabled, is no error."""
    bind = listening._bind

    def refuse_ipv6(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if family is socket.AF_INET6:
            raise OSError(missing, "no IPv6")
        return bind(family, address, port)

    monkeypatch.setattr(listening, "_bind", refuse_ipv6)
    (only,) = bind_all(0)
    with closing(only):
        assert only.family is socket.AF_INET


def test_port_that_is_free_for_one_family_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chosen port that is in use by IPv6 is released, and another is chosen."""
    bind, failures = listening._bind, [2]

    def fail_first(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
        if family is socket.AF_INET6 and failures[0]:
            failures[0] -= 1
            raise OSError(errno.EADDRINUSE, "in use")
        return bind(family, address, port)

    monkeypatch.setattr(listening, "_bind", fail_first)
    for each in bind_all(0):
        each.close()
    assert failures == [0]
    failures[0] = 100
    with pytest.raises(ConfigError, match="cannot listen on port 0: in use"):
        bind_all(0)

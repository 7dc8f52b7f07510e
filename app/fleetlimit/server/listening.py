"""Sockets that listen on all addresses of a host, of IPv4 and of IPv6.

A server on `0.0.0.0` has no IPv6, and one on `::` has no IPv4 where the kernel separates both.
"""

import errno
import socket
from typing import Final

from fleetlimit.errors import ConfigError

ALL_ADDRESSES: Final = "*"
_NO_IPV6: Final = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
_ATTEMPTS: Final = 20
"""Ports that are tried where the kernel chooses one: it may be free for IPv4 alone."""


def bind_all(port: int) -> list[socket.socket]:
    """Bind a port on all addresses. The sockets do not listen yet, so clients are refused.

    Args:
        port: Port; 0 for a free one, which is the same for IPv4 and IPv6.

    Raises:
        ConfigError: The port is in use, or may not be used.
    """
    attempts = 1 if port else _ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return _bind_both(port)
        except OSError as error:
            if attempt == attempts:
                raise ConfigError(
                    f"cannot listen on port {port}: {error.strerror}; choose another port"
                ) from error
    raise AssertionError  # the last attempt returns or raises


def _bind_both(port: int) -> list[socket.socket]:
    """Bind a port on all addresses of IPv4, and of IPv6 if the host has it.

    Raises:
        OSError: One of them cannot be bound.
    """
    ipv4 = _bind(socket.AF_INET, "0.0.0.0", port)
    try:
        return [ipv4, _bind(socket.AF_INET6, "::", ipv4.getsockname()[1])]
    except OSError as error:
        if error.errno in _NO_IPV6:
            return [ipv4]
        ipv4.close()
        raise


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        found.bind((address, port))
    except OSError:
        found.close()
        raise
    return found

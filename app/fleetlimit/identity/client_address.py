"""Resolver of the client's address, which the client itself cannot forge."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Any, Literal, NamedTuple

from fleetlimit.core.key_parts import HEADER_NAME
from fleetlimit.core.networks import Network, parse_network
from fleetlimit.errors import ConfigError
from fleetlimit.identity.credentials import header_lines

MAX_HOPS = 32
"""Most hops read; a longer chain of trusted proxies is treated as an attack."""
_MAX_ELEMENT_BYTES = 512
_MAX_ADDRESS_BYTES = 64
"""The longest text of an IPv6 address has 45 characters."""

_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?", re.ASCII
)
# Unquoted values may contain colons and brackets: many proxies send them, although RFC 7239 §4
# requires quotes.
_PAIR = re.compile(
    r"[ \t;]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    r'([^\s",;\\]+|"(?:[^"\\]|\\.)*")[ \t]*(?:;|$)',
    re.ASCII,
)


def iter_hops(lines: Sequence[bytes], parse: Callable[[str], str]) -> Iterator[str]:
    """Yield the address text of each hop, right-most first.

    Args:
        lines: The header's lines, in the order received.
        parse: `parse_xff_element` or `parse_forwarded_element`: returns the address of an element.

    Raises:
        ValueError: A hop cannot be parsed, or there are more than `MAX_HOPS`.
    """
    seen = 0
    for line in reversed(lines):
        for element in reversed(line.rsplit(b",", MAX_HOPS)):
            seen += 1
            if seen > MAX_HOPS or len(element) > _MAX_ELEMENT_BYTES:
                raise ValueError("too many hops, or too long a hop")
            if text := element.decode("ascii").strip(" \t"):
                yield parse(text)


def parse_xff_element(element: str) -> str:
    """Return the address of an element, without port and IPv6 brackets."""
    found = _NODE.fullmatch(element)
    return (found[1] or found[2]) if found else element


def parse_forwarded_element(element: str) -> str:
    """Return the address in the `for` parameter of an element (RFC 7239 §4, §6).

    Raises:
        ValueError: The element is invalid, or does not have exactly one `for`.
    """
    nodes = []
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            raise ValueError("not a forwarded-pair")
        if pair[1].lower() == "for":
            nodes.append(pair[2])
        position = pair.end()
    (node,) = nodes
    if node.startswith('"'):
        node = re.sub(r"\\(.)", r"\1", node[1:-1])
    return parse_xff_element(node)


_log = logging.getLogger("fleetlimit")
UNKNOWN = "unknown"
UNIX = "unix"
"""Entry of `trusted_proxies` for the proxy at the other end of a Unix socket."""
_UNIX_HOP = "unix:"
"""The address that nginx writes for the peer of a Unix socket."""
_MAX_PEER_CHARS = 64
_CACHED_ADDRESSES = 4096
_IPV6_BITS = 128
_ELEMENT_PARSERS = {"x-forwarded-for": parse_xff_element, "forwarded": parse_forwarded_element}


class _Hop(NamedTuple):
    """Address of one hop.

    Args:
        text: Text of the address, or of the network that stands for it.
        trusted: Whether it is a trusted proxy.
        exact: Text of the address itself; empty without an address.
    """

    text: str
    trusted: bool
    exact: str = ""


class ClientAddressResolver:
    """Resolver of a normalised client address.

    The address is the peer's unless the peer is a trusted proxy. Then the header is read from the
    right, past trusted hops. The first other hop is the client; if all are trusted, the left-most
    is. If a hop cannot be parsed, the address is the peer's. The first request without an address
    is logged as `identity.no_client_address`.

    A proxy may write the client's address alone into a header of its own. If a request of a trusted
    proxy does not have exactly one such header with one address, the address is the peer's, and the
    first such request is logged as `identity.address_header_invalid`.

    Args:
        trusted_proxies: Networks of the proxies in front, as CIDRs; `unix` for a peer without an IP
            address, which is connected through a Unix socket.
        ipv6_prefix: Bits of an IPv6 address that identify one client.
        forwarded: The header that the proxies write; None for no header. Only one is read, because
            a client could send the one that its proxy does not overwrite.
        address_header: Header with the client's address alone, in place of `forwarded`, such as
            `CF-Connecting-IP` or `X-Real-IP`.

    Raises:
        ConfigError: A network, the prefix or the header is invalid.
    """

    def __init__(
        self,
        trusted_proxies: Sequence[str] = (),
        *,
        ipv6_prefix: int = 64,
        forwarded: Literal["x-forwarded-for", "forwarded"] | None = "x-forwarded-for",
        address_header: str | None = None,
    ) -> None:
        if isinstance(trusted_proxies, str):
            raise ConfigError(f"trusted_proxies is a list: write [{trusted_proxies}]")
        if not 1 <= ipv6_prefix <= _IPV6_BITS:
            raise ConfigError(f"ipv6_prefix is from 1 to 128, not {ipv6_prefix}: write 64")
        if forwarded is not None and forwarded not in _ELEMENT_PARSERS:
            raise ConfigError(
                f"{forwarded!r} is not a forwarding header: write x-forwarded-for or forwarded"
            )
        if address_header is not None and not HEADER_NAME.fullmatch(address_header):
            raise ConfigError(f"{address_header!r} is not a header name: write X-Real-IP")
        self._trusts_unix = UNIX in trusted_proxies
        self._trusted = tuple(_network(text) for text in trusted_proxies if text != UNIX)
        self._warned: set[str] = set()
        self._ipv6_prefix = ipv6_prefix
        header = address_header or forwarded or ""
        self._header = header.lower().encode()
        self._has_one_address = address_header is not None
        self._parse_element = _ELEMENT_PARSERS[forwarded] if forwarded else parse_xff_element
        # Bounded, so that invented hops cannot exhaust memory.
        self._cached_hop = lru_cache(_CACHED_ADDRESSES)(self._parse_hop)
        self._cached_peer = lru_cache(_CACHED_ADDRESSES)(self._parse_peer)

    def resolve(self, scope: Mapping[str, Any]) -> str:
        """Return the client's address of an ASGI `http` or `websocket` scope; never raises.

        Returns:
            `192.0.2.1`, `2001:db8::/64`, the peer's text if it is not an IP address, or `unknown`
            without an address.
        """
        return self._find_hop(scope).text

    def resolve_exact(self, scope: Mapping[str, Any]) -> str:
        """Return the client's own address, where `resolve` returns the network of several.

        Returns:
            Empty without an address, and where the header of a trusted proxy is invalid, so that no
            client counts as the proxy.
        """
        return self._find_hop(scope).exact

    def _find_hop(self, scope: Mapping[str, Any]) -> _Hop:
        client = scope.get("client")
        peer = self._cached_peer(str(client[0])[:_MAX_PEER_CHARS] if client else "")
        if not peer.trusted or not self._header:
            return peer
        if self._has_one_address:
            return self._address_behind(peer, scope)
        hop = peer
        try:
            for text in iter_hops(header_lines(scope, self._header), self._parse_element):
                hop = self._cached_hop(text)
                if not hop.trusted:
                    break
        except ValueError:
            hop = _Hop(peer.text, peer.trusted)
        if hop.text == UNKNOWN:
            self._warn_of_no_address(
                f"the proxy on the Unix socket sent no valid {self._header.decode()}"
            )
        return hop

    def _address_behind(self, peer: _Hop, scope: Mapping[str, Any]) -> _Hop:
        """Return the address in the header of a trusted proxy, or the peer's."""
        try:
            # Two lines may be the proxy's and the client's; which one is which is not known.
            (line,) = header_lines(scope, self._header)
            text = line.decode("ascii") if len(line) <= _MAX_ADDRESS_BYTES else ""
            return self._cached_hop(text.strip(" \t"))
        except ValueError:
            self._warn_once(
                "identity.address_header_invalid: a request of a trusted proxy does not have one "
                "%s with one address, and counts as the proxy's: name the header that the proxy "
                "sets, and list under trusted_proxies only proxies that set it",
                self._header.decode(),
            )
            return _Hop(peer.text, peer.trusted)

    def _warn_of_no_address(self, detail: str) -> None:
        self._warn_once(
            "identity.no_client_address: a request has no address, and all such callers share one "
            "bucket: %s",
            detail,
        )

    def _warn_once(self, message: str, detail: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _log.warning(message, detail)

    def _parse_peer(self, host: str) -> _Hop:
        # Servers represent the peer of a Unix socket as no peer, as "", or as the socket.
        if not host or host.startswith(("/", "@", "\0", _UNIX_HOP)):
            if self._trusts_unix and self._header:
                return _Hop(UNKNOWN, trusted=True)
            self._warn_of_no_address(
                "behind a proxy on a Unix socket, write trusted_proxies: [unix]"
            )
            return _Hop(host or UNKNOWN, trusted=False)
        try:
            # The zone is an interface of this machine, not part of the client (RFC 4007 §11).
            return self._cached_hop(host.partition("%")[0])
        except ValueError:
            return _Hop(host, trusted=False)

    def _parse_hop(self, text: str) -> _Hop:
        if "%" in text:
            raise ValueError("a zone is only valid on its own machine")
        if text == _UNIX_HOP and self._trusts_unix:
            return _Hop(UNKNOWN, trusted=True)
        address = _unmap_ipv4(ip_address(text))
        trusted = any(address in network for network in self._trusted)
        if isinstance(address, IPv6Address):
            return _Hop(_client_of(address, self._ipv6_prefix), trusted, str(address))
        return _Hop(str(address), trusted, str(address))


def _unmap_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    # Compares bits, so every spelling is recognised. Grouped by /64, `::ffff:a.b.c.d` would put all
    # of IPv4 into one bucket (CVE-2026-30827).
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


_LAST_32_BITS = 0xFFFFFFFF
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::ffff:0:0:0/96"))
"""NAT64 (RFC 6052 §2.1) and SIIT (RFC 2765): the last 32 bits are the IPv4 address."""
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
"""RFC 8215; the operator chooses where in it the IPv4 address is (RFC 6052 §2.2)."""


def _client_of(address: IPv6Address, prefix: int) -> str:
    """Return the group of an IPv6 address: the IPv4 host that it stands for, or its network.

    A translator puts all of IPv4 into one /96, and a Teredo server all of its clients into one /64:
    by network they would share one bucket. A 6to4 host owns a /48, and could use 65,536 buckets.

    Whether a proxy is trusted depends on the address as it is, not on the IPv4 address in it: only
    a mapped address is the operating system's own notation of an IPv4 peer.
    """
    bits = int(address)
    embedded = IPv4Address(bits & _LAST_32_BITS)
    if any(address in network for network in _TRANSLATED):
        return str(embedded)
    if address in _LOCAL_NAT64:
        # In the /96 form the address comes last. In the other forms the last 24 bits are 0, and the
        # whole address stands for one IPv4 host.
        return str(embedded if bits & 0xFFFFFF else address)
    if address.sixtofour is not None:
        return str(address.sixtofour)
    if address.teredo is not None:
        return str(address.teredo[1])
    return str(IPv6Network((bits, prefix), strict=False))


def _network(text: str) -> Network:
    return parse_network(
        text,
        everyone="trusts every client, so clients could choose any address: write the networks of "
        "the proxies",
        role="trusted proxy ",
        further=", or unix",
    )

"""Finds the address of the client, which nothing that the client sends can change."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, Literal, NamedTuple

from fleetlimit.core.errors import ConfigError
from fleetlimit.identity.forwarded import forwarded as forwarded_syntax
from fleetlimit.identity.forwarded import hops, x_forwarded_for
from fleetlimit.identity.headers import header_lines

UNKNOWN = "unknown"
_MAX_PEER_CHARS = 64
_CACHED_ADDRESSES = 4096
_IPV6_BITS = 128
_SYNTAXES = {"x-forwarded-for": x_forwarded_for, "forwarded": forwarded_syntax}


class _Hop(NamedTuple):
    text: str
    trusted: bool


class ClientAddress:
    """Names the client by its address, normalised.

    The address is the peer's. Where the peer is a trusted proxy, the header is walked from the
    right past trusted hops; the first other hop is the client, or the left-most when all are
    trusted. A header that cannot be read up to there leaves the peer.

    Args:
        trusted_proxies: Networks of the proxies in front, as CIDRs.
        ipv6_prefix: Bits of an IPv6 address that name one client.
        forwarded: The header that the proxies write. Only one is read: a client could send the
            one that its proxy leaves alone. None reads neither.

    Raises:
        ConfigError: A network, the prefix or the header cannot be used.
    """

    def __init__(
        self,
        trusted_proxies: Sequence[str] = (),
        *,
        ipv6_prefix: int = 64,
        forwarded: Literal["x-forwarded-for", "forwarded"] | None = "x-forwarded-for",
    ) -> None:
        if isinstance(trusted_proxies, str):
            raise ConfigError(f"trusted_proxies is a list: write [{trusted_proxies}]")
        if not 1 <= ipv6_prefix <= _IPV6_BITS:
            raise ConfigError(f"ipv6_prefix is from 1 to 128, not {ipv6_prefix}: write 64")
        if forwarded is not None and forwarded not in _SYNTAXES:
            raise ConfigError(
                f"{forwarded!r} is no forwarding header: write x-forwarded-for or forwarded"
            )
        self._trusted = tuple(_network(text) for text in trusted_proxies)
        self._ipv6_prefix = ipv6_prefix
        self._header = forwarded.encode() if forwarded else b""
        self._syntax = _SYNTAXES[forwarded] if forwarded else x_forwarded_for
        # Bounded, so that made-up hops cannot fill memory.
        self._hop = lru_cache(_CACHED_ADDRESSES)(self._read_hop)
        self._peer = lru_cache(_CACHED_ADDRESSES)(self._read_peer)

    def of(self, scope: Mapping[str, Any]) -> str:
        """Return the client's address for an ASGI `http` or `websocket` scope; never raises.

        Returns:
            `192.0.2.1`, `2001:db8::/64`, the peer's own text when it is no IP address, or
            `unknown` without a peer.
        """
        client = scope.get("client")
        peer = self._peer(str(client[0])[:_MAX_PEER_CHARS] if client else "")
        if not peer.trusted or not self._header:
            return peer.text
        hop = peer
        try:
            for text in hops(header_lines(scope, self._header), self._syntax):
                hop = self._hop(text)
                if not hop.trusted:
                    break
        except ValueError:
            return peer.text
        return hop.text

    def _read_peer(self, host: str) -> _Hop:
        try:
            # The zone names an interface of this machine, not the client (RFC 4007 §11).
            return self._hop(host.partition("%")[0])
        except ValueError:
            return _Hop(host or UNKNOWN, trusted=False)

    def _read_hop(self, text: str) -> _Hop:
        if "%" in text:
            raise ValueError("a zone means nothing on another machine")
        address = _unmapped(ip_address(text))
        trusted = any(address in network for network in self._trusted)
        if isinstance(address, IPv6Address):
            group = IPv6Network((int(address), self._ipv6_prefix), strict=False)
            return _Hop(str(group), trusted)
        return _Hop(str(address), trusted)


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    # By bits, whatever the spelling: grouped by /64 as it is, `::ffff:a.b.c.d` would put all of
    # IPv4 into one bucket (CVE-2026-30827).
    if isinstance(address, IPv6Address) and int(address) >> 32 == 0xFFFF:  # noqa: PLR2004 - prefix
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text)
    except ValueError:
        try:
            fixed = f"write {ip_network(text, strict=False)}"
        except ValueError:
            fixed = "write an address or a network such as 10.0.0.0/8 or 2001:db8::/32"
        raise ConfigError(f"trusted proxy {text!r} is not a network: {fixed}") from None
    if network.prefixlen == 0:
        raise ConfigError(
            f"trusted proxy {text!r} trusts everybody, so that clients could name any address: "
            "write the networks of the proxies"
        )
    if network.version == 6 and _unmapped(network.network_address).version == 4:  # noqa: PLR2004 - IP versions
        raise ConfigError(
            f"trusted proxy {text!r} is IPv4 written as IPv6: write "
            f"{_unmapped(network.network_address)}/{max(0, network.prefixlen - 96)}"
        )
    return network

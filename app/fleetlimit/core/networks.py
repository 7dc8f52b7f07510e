"""Networks of clients and proxies, as text that is checked."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from fleetlimit.errors import ConfigError

_CACHED_ADDRESSES: Final = 4_096

Network = IPv4Network | IPv6Network


def parse_network(text: str, *, everyone: str, role: str = "", further: str = "") -> Network:
    """Parse an address or a network, such as `10.0.0.0/8` or `2001:db8::/32`.

    Args:
        text: The text.
        everyone: What is wrong with a network of all addresses, and what to write.
        role: What the network is for, with a space at its end; for messages.
        further: Other words than networks that may be written; for messages.

    Raises:
        ConfigError: It is none, or has all addresses, or is IPv4 written as IPv6.
    """
    try:
        network = ip_network(text)
    except ValueError:
        try:
            fixed = f"write {ip_network(text, strict=False)}"
        except ValueError:
            fixed = "write an address or a network such as 10.0.0.0/8 or 2001:db8::/32" + further
        raise ConfigError(f"{role}{text!r} is not a network: {fixed}") from None
    if network.prefixlen == 0:
        raise ConfigError(f"{role}{text!r} {everyone}")
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None:
        prefix = max(0, network.prefixlen - 96)
        raise ConfigError(f"{role}{text!r} is IPv4 written as IPv6: write {mapped}/{prefix}")
    return network


def is_within(address: str, networks: tuple[Network, ...]) -> bool:
    """Return whether the text is an address in one of the networks."""
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in networks)


@lru_cache(_CACHED_ADDRESSES)
def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(address)
    except ValueError:
        # Without an address, as on a Unix socket.
        return None

"""ClientAddressResolver with a header that has the client's address alone."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.errors import ConfigError
from fleetlimit.identity import ClientAddressResolver
from support.identity import request

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")
PROXY = ("10.0.0.1", 80)
RESOLVER = ClientAddressResolver(PROXIES, address_header="CF-Connecting-IP")


def behind_proxy(*lines: str | bytes) -> str:
    return RESOLVER.resolve(request(*(("CF-Connecting-IP", line) for line in lines), client=PROXY))


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        (" 198.51.100.7\t", "198.51.100.7"),
        ("2001:DB8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("10.9.9.9", "10.9.9.9"),
    ],
)
def test_address_of_a_trusted_proxy_is_the_client(line: str, client: str) -> None:
    """The address is normalised as everywhere else."""
    assert behind_proxy(line) == client


def test_header_of_an_untrusted_peer_is_ignored() -> None:
    """A client that reaches the app itself cannot choose its address."""
    scope = request(("CF-Connecting-IP", "198.51.100.7"))
    assert RESOLVER.resolve(scope) == "192.0.2.1"
    assert ClientAddressResolver(address_header="X-Real-IP").resolve(scope) == "192.0.2.1"


def test_other_headers_are_ignored() -> None:
    """Only the named header is read: a client can send those that its proxy does not set."""
    others = [
        (name, "198.51.100.7") for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "X-CF")
    ]
    assert RESOLVER.resolve(request(*others, client=PROXY)) == "10.0.0.1"


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [""],
        ["garbage"],
        ["unknown"],
        ["198.51.100.7, 198.51.100.8"],
        ["198.51.100.7", "198.51.100.7"],
        ["198.51.100.7", "203.0.113.9"],
        ["198.51.100.7", ""],
        ["198.51.100.7:80"],
        ["[2001:db8::1]"],
        ["fe80::1%eth0"],
        ["198.51.100.07"],
        ["198.51.100.0/24"],
        ["198.51.100.7" + " " * 60 + "x"],
        ["1" * 70_000],
        [b"\xff"],
        ["198.51.100.7\0"],
    ],
)
def test_header_that_is_not_one_address_counts_as_the_proxys(
    lines: Sequence[str | bytes],
) -> None:
    """A missing, repeated or invalid header never gives a bucket of the client's choice."""
    assert behind_proxy(*lines) == "10.0.0.1"


def test_invalid_header_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first request without the header is logged, without what a client sent."""
    resolver = ClientAddressResolver(PROXIES, address_header="X-Real-IP")
    for line in ("secret-of-a-client", "other"):
        resolver.resolve(request(("X-Real-IP", line), client=PROXY))
    (record,) = caplog.records
    assert "identity.address_header_invalid" in record.getMessage()
    assert "x-real-ip" in record.getMessage()
    assert "secret-of-a-client" not in record.getMessage()


def test_header_behind_a_unix_socket() -> None:
    """A proxy on a Unix socket may write the header; without it all callers share a bucket."""
    resolver = ClientAddressResolver(["unix"], address_header="X-Real-IP")
    assert resolver.resolve(request(("X-Real-IP", "198.51.100.7"), client=None)) == "198.51.100.7"
    assert resolver.resolve(request(client=None)) == "unknown"


@given(st.lists(st.binary(max_size=80), max_size=3))
def test_any_bytes_give_an_address(lines: list[bytes]) -> None:
    """Any header gives the proxy's address or a valid one, and never raises."""
    assert behind_proxy(*lines)


@pytest.mark.parametrize("name", ["", "X Real IP", "X-Real-IP:", "X-Real-IP\n"])
def test_invalid_name_is_an_error(name: str) -> None:
    """The name of the header is judged at construction."""
    with pytest.raises(ConfigError, match="not a header name: write X-Real-IP"):
        ClientAddressResolver(PROXIES, address_header=name)

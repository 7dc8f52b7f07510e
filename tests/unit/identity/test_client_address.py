"""ClientAddressResolver: the client cannot choose its address."""

from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.errors import ConfigError
from fleetlimit.identity import ClientAddressResolver
from support.identity import request

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::/48")
XFF = ClientAddressResolver(PROXIES)
RFC7239 = ClientAddressResolver(PROXIES, forwarded="forwarded")
PROXY = ("10.0.0.1", 80)


def behind_proxy(*lines: str | bytes) -> str:
    return XFF.resolve(request(*(("X-Forwarded-For", line) for line in lines), client=PROXY))


def forwarded(*lines: str | bytes) -> str:
    return RFC7239.resolve(request(*(("Forwarded", line) for line in lines), client=PROXY))


def test_header_of_an_untrusted_peer_is_ignored() -> None:
    """A peer that is not a trusted proxy cannot set another address."""
    scope = request(("X-Forwarded-For", "198.51.100.7"), ("Forwarded", "for=198.51.100.7"))
    assert ClientAddressResolver().resolve(scope) == "192.0.2.1"
    assert XFF.resolve(scope) == "192.0.2.1"
    assert RFC7239.resolve(scope) == "192.0.2.1"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, 10.2.3.4"], "198.51.100.7"),
        (["1.2.3.4, 198.51.100.7, 10.2.3.4,10.9.9.9"], "198.51.100.7"),
        (["1.2.3.4", "198.51.100.7", "10.2.3.4"], "198.51.100.7"),
        (["10.4.4.4, 10.2.3.4"], "10.4.4.4"),
        (["198.51.100.7:8080"], "198.51.100.7"),
        (["2001:db8::1"], "2001:db8::/64"),
        (["[2001:db8::1]"], "2001:db8::/64"),
        (["[2001:db8::1]:443"], "2001:db8::/64"),
        (["198.51.100.7, 2001:db8:ffff::5"], "198.51.100.7"),
        (["::ffff:198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, ::ffff:10.1.1.1"], "198.51.100.7"),
        (["\t198.51.100.7 , ,"], "198.51.100.7"),
        (["garbage, 198.51.100.7"], "198.51.100.7"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_slowapi_255_306_first_untrusted_hop_from_the_right_is_the_client(
    lines: list[str], client: str
) -> None:
    """X-Forwarded-For is read from the right to the first hop that is not a trusted proxy."""
    assert behind_proxy(*lines) == client


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        "198.51.100.7 10.1.1.1",
        "unknown",
        "_hidden",
        "fe80::1%eth0",
        "[fe80::1%25eth0]:80",
        "[2001:db8::1",
        "198.51.100.7:port",
        "198.51.100.07",
        "999.1.1.1",
        '"198.51.100.7"',
        "1" * 600,
        b"\xff\xfe\x00",
        "198.51.100.7, " + ", ".join(["10.1.1.1"] * 500),
        "198.51.100.7, garbage, 10.1.1.1",
    ],
)
def test_malformed_hops_fall_back_to_the_peer(line: str | bytes) -> None:
    """With an invalid hop, or too many hops, the peer is the client."""
    assert behind_proxy(line) == "10.0.0.1"


def test_hops_are_bounded_across_header_lines() -> None:
    """The bound on hops applies to all header lines together."""
    assert behind_proxy("198.51.100.7", *["10.1.1.1"] * 500) == "10.0.0.1"


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("for=198.51.100.7", "198.51.100.7"),
        ("For=198.51.100.7;proto=https;by=10.0.0.1", "198.51.100.7"),
        ('proto=https; for="198.51.100.7:4711"', "198.51.100.7"),
        ('for="[2001:db8::1]:4711"', "2001:db8::/64"),
        ('for="[2001:db8::1]:_port"', "2001:db8::/64"),
        ('for="198.51\\.100.7"', "198.51.100.7"),
        ("for=[2001:db8::1]", "2001:db8::/64"),
        ("for=1.2.3.4, for=198.51.100.7;, for=10.1.1.1", "198.51.100.7"),
        ('for="1.2.3.4, for=198.51.100.7', "198.51.100.7"),
        ('for=198.51.100.7;host="a;b"', "198.51.100.7"),
    ],
)
def test_forwarded_is_read_like_x_forwarded_for(line: str, client: str) -> None:
    """The `for` of each RFC 7239 element is one hop."""
    assert forwarded(line) == client


@pytest.mark.parametrize(
    "line",
    [
        "for=unknown",
        "for=_hidden",
        "proto=https",
        "for=1.2.3.4;for=5.6.7.8",
        "for",
        "for=",
        'for="1.2.3.4',
        'for=1.2.3.4;host="x, for=9.9.9.9"',
        'for=1.2.3.4;host="x, for=\\"9.9.9.9"',
        "1.2.3.4",
        b"for=\xff",
    ],
)
def test_malformed_forwarded_falls_back_to_the_peer(line: str | bytes) -> None:
    """With an element that does not have exactly one valid `for`, the peer is the client."""
    assert forwarded(line) == "10.0.0.1"


def test_only_the_configured_header_is_read() -> None:
    """The header that the proxy does not write comes from the client, and is ignored."""
    scope = request(
        ("X-Forwarded-For", "198.51.100.7"), ("Forwarded", "for=203.0.113.9"), client=PROXY
    )
    assert XFF.resolve(scope) == "198.51.100.7"
    assert RFC7239.resolve(scope) == "203.0.113.9"
    assert ClientAddressResolver(PROXIES, forwarded=None).resolve(scope) == "10.0.0.1"


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (None, "unknown"),
        (("", 0), "unknown"),
        (("testclient", 50000), "testclient"),
        (("/run/app.sock", 0), "/run/app.sock"),
        (("x" * 1000, 0), "x" * 64),
        (("::ffff:192.0.2.1", 1), "192.0.2.1"),
        (("::ffff:c000:201", 1), "192.0.2.1"),
        (("0:0:0:0:0:FFFF:192.0.2.1", 1), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1), "fe80::/64"),
    ],
)
def test_peer_is_normalised(client: tuple[str, int] | None, address: str) -> None:
    """Any peer of a server becomes one bounded text."""
    assert XFF.resolve(request(client=client)) == address


def test_cve_2026_30827_mapped_ipv4_clients_are_distinct() -> None:
    """IPv4 clients on a dual-stack socket do not share one /64."""
    one, two = (XFF.resolve(request(client=(f"::ffff:192.0.2.{n}", 1))) for n in (1, 2))
    assert one != two


@pytest.mark.parametrize(
    ("written", "client"),
    [
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("64:ff9b::", "0.0.0.0"),
        ("64:ff9b:0:0:0:1:c000:201", "64:ff9b::/64"),
        ("64:ff9b:1::192.0.2.1", "192.0.2.1"),
        ("64:ff9b:1:abcd:0:5:c000:201", "192.0.2.1"),
        ("64:ff9b:1:c000:2:100::", "64:ff9b:1:c000:2:100::"),
        ("64:ff9b:1:abcd:c0:2:100:0", "64:ff9b:1:abcd:c0:2:100:0"),
        ("64:ff9b:2::192.0.2.1", "64:ff9b:2::/64"),
        ("::ffff:0:192.0.2.1", "192.0.2.1"),
        ("2002:c000:201::1", "192.0.2.1"),
        ("2002:c000:201:ffff::9", "192.0.2.1"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdfe", "192.0.2.1"),
        ("2001:1::1", "2001:1::/64"),
    ],
)
def test_ipv4_hosts_behind_a_translator_are_distinct(written: str, client: str) -> None:
    """An IPv6 address that stands for an IPv4 host is that host, as a peer and as a hop."""
    assert XFF.resolve(request(client=(written, 1))) == client
    assert behind_proxy(written) == client
    assert forwarded(f'for="[{written}]"') == client


@pytest.mark.parametrize(
    "written", ["64:ff9b::10.0.0.1", "64:ff9b:1::10.0.0.1", "2002:a00:1::", "2001::f5ff:fffe"]
)
def test_translated_address_of_a_proxy_is_not_trusted(written: str) -> None:
    """Trust depends on the address as it is, so its network can be listed."""
    scope = request(("X-Forwarded-For", "198.51.100.7"), client=(written, 1))
    assert XFF.resolve(scope) == "10.0.0.1"
    listed = ClientAddressResolver(["64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"])
    assert listed.resolve(scope) == "198.51.100.7"


def test_mapped_and_translated_callers_share_a_bucket_with_the_ipv4_host() -> None:
    """A host has one bucket, by whichever way it comes."""
    ways = ("192.0.2.1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::5")
    assert {XFF.resolve(request(client=(way, 1))) for way in ways} == {"192.0.2.1"}


UNIX = ClientAddressResolver(["unix", "10.0.0.0/8"])
UNIX_PEERS = [None, ("", 0), ("/run/app.sock", 0), ("unix:", 0), ("unix:/run/a", 0), ("@app", 0)]


@pytest.mark.parametrize("peer", UNIX_PEERS)
@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("1.2.3.4, 198.51.100.7, 10.1.1.1", "198.51.100.7"),
        ("198.51.100.7, unix:", "198.51.100.7"),
        ("unix:, 198.51.100.7", "198.51.100.7"),
        ("garbage", "unknown"),
        ("unix:", "unknown"),
        ("", "unknown"),
    ],
)
def test_proxy_on_a_unix_socket_can_be_trusted(
    peer: tuple[str, int] | None, line: str, client: str
) -> None:
    """With `unix` the header of a peer without an IP address is read, however servers write it."""
    assert UNIX.resolve(request(("X-Forwarded-For", line), client=peer)) == client


def test_unix_trusts_no_peer_with_an_address() -> None:
    """`unix` is no network: the header of another peer is ignored."""
    for peer in (("192.0.2.1", 1), ("testclient", 1)):
        assert UNIX.resolve(request(("X-Forwarded-For", "1.1.1.1"), client=peer)) == peer[0]
    hop = request(("X-Forwarded-For", "1.1.1.1, unix:"), client=PROXY)
    assert UNIX.resolve(hop) == "1.1.1.1"
    assert XFF.resolve(hop) == "10.0.0.1"


@pytest.mark.parametrize(
    ("resolver", "line", "advice"),
    [
        (ClientAddressResolver(), "1.1.1.1", "write trusted_proxies: [unix]"),
        (ClientAddressResolver(PROXIES), "1.1.1.1", "write trusted_proxies: [unix]"),
        (ClientAddressResolver(["unix"]), "", "sent no valid x-forwarded-for"),
        (ClientAddressResolver(["unix"], forwarded="forwarded"), "", "sent no valid forwarded"),
    ],
)
def test_first_request_without_an_address_is_warned_about(
    resolver: ClientAddressResolver, line: str, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Callers that share the bucket `unknown` are reported once, with the fix."""
    for _ in range(3):
        assert resolver.resolve(request(("X-Forwarded-For", line), client=None)) == "unknown"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.message.startswith("identity.no_client_address: ")
    assert record.message.endswith(advice)


@pytest.mark.parametrize("peer", UNIX_PEERS)
def test_peer_of_a_unix_socket_is_warned_about_however_servers_write_it(
    peer: tuple[str, int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """All callers share a bucket, whether it is called `unknown` or by the path of the socket."""
    for resolver in (ClientAddressResolver(), ClientAddressResolver(["unix"], forwarded=None)):
        caplog.clear()
        for _ in range(2):
            resolver.resolve(request(client=peer))
        assert len(caplog.records) == 1


def test_addresses_are_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """A peer with an address, or a header behind a Unix socket, causes no warning."""
    XFF.resolve(request())
    UNIX.resolve(request(("X-Forwarded-For", "198.51.100.7"), client=None))
    assert caplog.records == []


def test_addresses_of_a_64_are_one_client() -> None:
    """Another address of the same /64 is the same client; the prefix is configurable."""
    one, two = (("2001:db8::1", 1), ("2001:db8::2", 1))
    assert XFF.resolve(request(client=one)) == XFF.resolve(request(client=two))
    exact = ClientAddressResolver(ipv6_prefix=128)
    assert exact.resolve(request(client=one)) != exact.resolve(request(client=two))
    coarse = ClientAddressResolver(ipv6_prefix=24)
    assert coarse.resolve(request(client=("::1", 1))) == "::/24"


def test_scope_without_headers_has_an_address() -> None:
    """A scope with neither headers nor peer still has an address."""
    assert XFF.resolve({"type": "websocket"}) == "unknown"
    assert XFF.resolve({"type": "websocket", "client": PROXY}) == "10.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trusted_proxies": ["10.0.0.1/8"]}, "write 10.0.0.0/8"),
        ({"trusted_proxies": ["*"]}, "such as 10.0.0.0/8"),
        ({"trusted_proxies": ["Unix"]}, "or unix"),
        ({"trusted_proxies": "unix"}, r"write \[unix\]"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "trusts every client"),
        ({"trusted_proxies": ["::/0"]}, "trusts every client"),
        ({"trusted_proxies": ["::ffff:10.0.0.0/104"]}, "write 10.0.0.0/8"),
        ({"trusted_proxies": "10.0.0.0/8"}, r"write \[10.0.0.0/8\]"),
        ({"ipv6_prefix": 0}, "from 1 to 128"),
        ({"ipv6_prefix": 129}, "from 1 to 128"),
        ({"forwarded": "x-real-ip"}, "write x-forwarded-for or forwarded"),
    ],
)
def test_invalid_settings_say_what_to_write(arguments: dict[str, Any], message: str) -> None:
    """An invalid setting is rejected at construction, with the fix."""
    with pytest.raises(ConfigError, match=message):
        ClientAddressResolver(**arguments)


Header = Literal["X-Forwarded-For", "Forwarded"]
junk = st.one_of(st.binary(max_size=200), st.text('0123456789.:,;="\\for[]% _', max_size=60))
untrusted = st.ip_addresses(v=4).filter(lambda address: address.packed[0] != 10).map(str)


@given(junk, st.sampled_from(["X-Forwarded-For", "Forwarded"]), st.one_of(st.none(), st.text()))
def test_resolve_never_raises(value: bytes | str, header: Header, peer: str | None) -> None:
    """Any header from any peer gives a non-empty, bounded address."""
    for address in (XFF, RFC7239):
        for client in ((peer, 1) if peer is not None else None, PROXY):
            found = address.resolve(request((header, value), client=client))
            assert 0 < len(found) <= 64


@given(untrusted, st.lists(st.sampled_from(["10.1.1.1", "::ffff:10.2.2.2"]), max_size=5), junk)
def test_prepended_hops_do_not_change_the_client(client: str, proxies: list[str], lie: Any) -> None:
    """A client behind trusted proxies keeps its address, whatever header it sends itself."""
    lie = lie if isinstance(lie, bytes) else lie.encode()
    chain = ", ".join([client, *proxies]).encode()
    assert behind_proxy(lie + b", " + chain) == client
    assert behind_proxy(lie, chain) == client
    elements = ", ".join(f'for="[{hop}]"' if ":" in hop else f"for={hop}" for hop in proxies)
    tail = f"for={client}{', ' if proxies else ''}{elements}".encode()
    assert forwarded(lie + b", " + tail) == client
    assert forwarded(lie, tail) == client


@given(st.lists(st.one_of(st.ip_addresses().map(str), st.text("1.:ax", max_size=8)), max_size=40))
def test_client_is_untrusted_unless_all_hops_are_trusted(chain: list[str]) -> None:
    """The address belongs to a trusted proxy only if no other hop is valid."""
    found = behind_proxy(", ".join(chain))
    if found.startswith("10."):
        assert found == "10.0.0.1" or any(hop.strip() == found for hop in chain)
    else:
        assert any(XFF.resolve(request(client=(hop, 1))) == found for hop in chain)

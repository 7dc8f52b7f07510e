"""Hostile requests are limited as others are, and none is an error."""

import pytest
from fastapi import Depends, FastAPI
from starlette.types import Message

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.web.dependency import PolicyLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.limiter import rate_policy
from support.web import LimiterBench, collect_messages, http_scope

BY_TENANT = (KeyPart(KeyKind.HEADER, "x-tenant"),)


def _app(bench: LimiterBench, *, middleware: bool) -> FastAPI:
    app = bench.install(FastAPI())
    limits = [] if middleware else [Depends(PolicyLimit("default"))]

    @app.get("/items/{item}", dependencies=limits)
    async def items(item: str) -> int:
        return len(item)

    if middleware:
        app.add_middleware(RateLimitMiddleware)
    return app


def _status(messages: list[Message]) -> int:
    status: int = messages[0]["status"]
    return status


@pytest.mark.parametrize("middleware", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        b"caf\xe9",
        bytes(range(128, 256)),
        b"\x00\x01\x02\x7f",
        b"\xff\xfe\xed\xa0\x80",
        b"",
        b'"; r=9, \r\n',
        b"{tag}:*",
        b"x" * 65_536,
    ],
)
async def test_any_header_value_is_a_key(*, middleware: bool, value: bytes) -> None:
    """Any bytes of a header select one bucket, the same each time, without an error."""
    bench = LimiterBench(rate_policy("default", "1/minute", key=BY_TENANT))
    app = _app(bench, middleware=middleware)
    scope = [http_scope("/items/1", headers=[(b"x-tenant", value)]) for _ in range(2)]
    assert [_status(await collect_messages(app, each)) for each in scope] == [200, 429]
    # Header values do not make the keys in the store longer.
    assert max(map(len, bench.store._buckets)) < 100


@pytest.mark.parametrize("middleware", [True, False])
async def test_missing_header_counts_by_caller(*, middleware: bool) -> None:
    """A request without the header counts by identity, so leaving it out helps no client."""
    app = _app(
        LimiterBench(rate_policy("default", "1/minute", key=BY_TENANT)), middleware=middleware
    )
    ann, bob = [(b"x-caller", b"ann")], [(b"x-caller", b"bob")]
    found = [
        _status(await collect_messages(app, http_scope("/items/1", headers=h)))
        for h in (ann, ann, bob)
    ]
    assert found == [200, 429, 200]


async def test_repeated_header_is_one_value() -> None:
    """Repeated headers are one value: their lines do not select a bucket each."""
    app = _app(LimiterBench(rate_policy("default", "1/minute", key=BY_TENANT)), middleware=True)
    one, two = (b"x-tenant", b"a"), (b"x-tenant", b"b")
    found = [
        _status(await collect_messages(app, http_scope("/items/1", headers=headers)))
        for headers in ([one], [one, two], [(b"x-tenant", b"a, b")])
    ]
    assert found == [200, 200, 429]


@pytest.mark.parametrize(
    "path",
    [
        "/items/%2e%2e",
        "/items/\u202e\u0000",
        "/items/\udcff",
        "/items/{item}",
        "/items/" + "x" * 65_536,
        "/items/a\nb",
        "//items/1",
        "/items/1/",
        "/ITEMS/1",
        "",
        "*",
        "\udcff",
    ],
)
async def test_any_path_is_counted(path: str) -> None:
    """Any path counts by its route or as unmatched, and none has its own bucket."""
    bench = LimiterBench(rate_policy("default", "1/minute", key=(KeyPart(KeyKind.GLOBAL),)))
    app = _app(bench, middleware=True)
    for status in (None, 429):
        scope = http_scope(path)
        found = _status(await collect_messages(app, scope))
        assert found == status or (status is None and found in {200, 307, 404})
    assert set(bench.routes) <= {"GET /items/{item}", "unmatched"}


async def test_clients_without_an_address_share_a_bucket() -> None:
    """Clients without an address, as behind a Unix socket, share one bucket."""
    app = _app(LimiterBench(rate_policy("default", "1/minute")), middleware=True)
    bare = http_scope("/items/1")
    del bare["client"]
    found = [
        _status(await collect_messages(app, scope))
        for scope in (http_scope("/items/1", client=None), bare)
    ]
    assert found == [200, 429]


async def test_malformed_host_is_no_error() -> None:
    """A malformed Host header is no error."""
    app = _app(LimiterBench(rate_policy("default", "9/minute")), middleware=True)
    for host in (b"", b"\xff\x00", b"[::1]:80", b":::"):
        scope = http_scope("/items/1")
        scope["headers"] = [(b"host", host)]
        assert _status(await collect_messages(app, scope)) == 200


async def test_other_scope_types_pass() -> None:
    """A scope that is neither a request nor a handshake passes unchanged."""
    seen: list[str] = []

    async def app(scope: object, receive: object, send: object) -> None:
        del receive, send
        seen.append(str(scope))

    await collect_messages(RateLimitMiddleware(app), {"type": "lifespan"})
    assert seen == ["{'type': 'lifespan'}"]

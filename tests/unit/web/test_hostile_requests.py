"""Requests that mean harm are limited like others; none of them is an error."""

import pytest
from fastapi import Depends, FastAPI
from starlette.types import Message

from fleetlimit.core.policy import KeyKind, KeyPart
from fleetlimit.web.dependency import PolicyLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench, collect_messages, http_scope, rate_policy

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
async def test_header_values(*, middleware: bool, value: bytes) -> None:
    """Any bytes of a header make a bucket, the same one each time, and never an error."""
    bench = LimiterBench(rate_policy("default", "1/minute", key=BY_TENANT))
    app = _app(bench, middleware=middleware)
    scope = [http_scope("/items/1", headers=[(b"x-tenant", value)]) for _ in range(2)]
    assert [_status(await collect_messages(app, each)) for each in scope] == [200, 429]
    # What a client sends does not make the store's keys longer.
    assert max(map(len, bench.store._buckets)) < 100


@pytest.mark.parametrize("middleware", [True, False])
async def test_header_missing(*, middleware: bool) -> None:
    """Without the header a caller is counted by identity: leaving it out frees nobody."""
    app = _app(
        LimiterBench(rate_policy("default", "1/minute", key=BY_TENANT)), middleware=middleware
    )
    ann, bob = [(b"x-caller", b"ann")], [(b"x-caller", b"bob")]
    found = [
        _status(await collect_messages(app, http_scope("/items/1", headers=h)))
        for h in (ann, ann, bob)
    ]
    assert found == [200, 429, 200]


async def test_header_repeated() -> None:
    """A header that is sent twice is one value: its lines do not pick one bucket each."""
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
async def test_paths(path: str) -> None:
    """Any path is counted, by the route or as unmatched, and none makes a bucket of its own."""
    bench = LimiterBench(rate_policy("default", "1/minute", key=(KeyPart(KeyKind.GLOBAL),)))
    app = _app(bench, middleware=True)
    for status in (None, 429):
        scope = http_scope(path)
        found = _status(await collect_messages(app, scope))
        assert found == status or (status is None and found in {200, 307, 404})
    assert set(bench.routes) <= {"GET /items/{item}", "unmatched"}


async def test_no_client() -> None:
    """Clients without an address, as behind a UNIX socket, share one bucket."""
    app = _app(LimiterBench(rate_policy("default", "1/minute")), middleware=True)
    bare = http_scope("/items/1")
    del bare["client"]
    found = [
        _status(await collect_messages(app, scope))
        for scope in (http_scope("/items/1", client=None), bare)
    ]
    assert found == [200, 429]


async def test_host_of_junk() -> None:
    """A Host that is no host is no error."""
    app = _app(LimiterBench(rate_policy("default", "9/minute")), middleware=True)
    for host in (b"", b"\xff\x00", b"[::1]:80", b":::"):
        scope = http_scope("/items/1")
        scope["headers"] = [(b"host", host)]
        assert _status(await collect_messages(app, scope)) == 200


async def test_other_scopes_pass() -> None:
    """What is neither a request nor a handshake passes untouched."""
    seen: list[str] = []

    async def app(scope: object, receive: object, send: object) -> None:
        del receive, send
        seen.append(str(scope))

    await collect_messages(RateLimitMiddleware(app), {"type": "lifespan"})
    assert seen == ["{'type': 'lifespan'}"]

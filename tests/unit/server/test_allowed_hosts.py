"""Check of the Host header of the admin port."""

from collections.abc import Sequence

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from fleetlimit.core.quota import SECOND_US
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW, WINDOW_US
from fleetlimit.server.admin.allowed_hosts import AllowedHosts, parse_hosts
from fleetlimit.testing import ManualClock
from support.web import collect_messages, http_scope


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path."""
    await PlainTextResponse(Request(scope).url.path)(scope, receive, send)


async def answer(middleware: AllowedHosts, *hosts: bytes) -> tuple[int, bytes]:
    """Return status and body of the response to a request with these Host headers."""
    scope = {**http_scope("/metrics"), "headers": [(b"host", host) for host in hosts]}
    start, body = await collect_messages(middleware, scope)
    return start["status"], body["body"]


@pytest.mark.parametrize(
    "host",
    [
        "10.1.2.3:9090",
        "127.0.0.1",
        "[fd00::a]:9090",
        "[::ffff:10.0.0.1]",
        "[fe80::1%eth0]:9090",
        "localhost:9090",
        "LOCALHOST.",
        "fleetlimit-admin:9090",
        "web_1",
        "fleetlimit-admin.limits.svc:9090",
        "10-1-2-3.limits.pod.cluster.local",
        "host.docker.internal:9090",
        "a.localhost",
    ],
)
async def test_local_hosts_are_allowed(host: str) -> None:
    """Probes, Prometheus, port-forwards and Services work without a setting."""
    assert await answer(AllowedHosts(app), host.encode()) == (200, b"/metrics")


async def test_request_without_host_is_allowed() -> None:
    """An HTTP/1.0 probe has no Host header, and a browser always sends one."""
    assert await answer(AllowedHosts(app)) == (200, b"/metrics")


@pytest.mark.parametrize(
    "hosts",
    [
        ["evil.example"],
        ["evil.example:9090"],
        ["evil.example."],
        ["EVIL.example"],
        ["localhost.evil.example"],
        ["127.0.0.1.evil.example"],
        ["10.1.2.3.4"],
        ["x.svc.evil.example"],
        ["evilsvc.example"],
        ["a.xsvc"],
        ["localhost@evil.example"],
        ["evil.example#.svc"],
        ["evil.example/.svc"],
        ["[::1].evil.example"],
        ["[::1"],
        [""],
        ["a b"],
        ["localhost", "evil.example"],
        ["evil.example", "localhost"],
        ["localhost:9090:9090"],
        ["caf\xe9.svc"],
    ],
    ids=lambda hosts: ",".join(hosts) or "empty",
)
async def test_other_hosts_are_rejected(hosts: Sequence[str]) -> None:
    """A public name, and what is not one host name, is answered with 421 and the setting."""
    status, body = await answer(AllowedHosts(app), *(host.encode("latin-1") for host in hosts))
    assert status == 421
    assert b"FLEETLIMIT_ADMIN_ALLOWED_HOSTS" in body


async def test_further_hosts_are_allowed() -> None:
    """The setting has names, suffixes, or any name."""
    some = AllowedHosts(app, parse_hosts(" Metrics.example.com , *.corp.example,"))
    for host, status in {
        b"metrics.example.com:9090": 200,
        b"a.metrics.example.com": 421,
        b"a.b.corp.example.": 200,
        b"corp.example": 421,
        b"evilcorp.example": 421,
    }.items():
        assert (await answer(some, host))[0] == status, host
    assert (await answer(AllowedHosts(app, parse_hosts("*")), b"evil.example"))[0] == 200


async def test_rejections_are_logged_with_sampling(log: pytest.LogCaptureFixture) -> None:
    """The host is in the log, bounded in length; a flood adds a number only."""
    clock = ManualClock()
    middleware = AllowedHosts(app, clock=clock)
    await answer(middleware, b"evil.example" + b"e" * 10_000)
    [record] = log.records
    assert "admin.host_rejected" in record.getMessage()
    assert "evil.example" in record.getMessage()
    assert len(record.getMessage()) < 400
    for _ in range(LINES_PER_WINDOW + 2):
        await answer(middleware, b"evil.example")
    assert len(log.records) == LINES_PER_WINDOW
    clock.advance(WINDOW_US // SECOND_US + 1)
    await answer(middleware, b"evil.example")
    assert "admin.host_rejected.suppressed suppressed=3" in log.records[-2].getMessage()

"""Exempt requests: lists and functions, at the middleware and at the dependency."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from fleetlimit import ConfigError, Exemption, Fleetlimit, Match, Outcome, Policy, PolicySet
from fleetlimit.core.subject import Principal
from fleetlimit.identity import ClientAddressResolver, RequestIdentifier
from fleetlimit.limiter.events import CheckDecided
from fleetlimit.web.dependency import ConcurrencyLimit, PolicyLimit, RateLimit
from fleetlimit.web.middleware import RateLimitMiddleware
from support.web import LimiterBench, caller, parse_limits, resolve_x_caller

both_doors = pytest.mark.parametrize("middleware", [True, False])


def client_of(
    *limits: Any,
    middleware: bool = False,
    bench: LimiterBench | None = None,
    address: str = "192.0.2.1",
) -> TestClient:
    """Return a client of an app with one limited route, and one for the health of the app."""
    app = FastAPI()
    for path in ("/a", "/health"):
        app.get(path, dependencies=[Depends(each) for each in limits])(lambda: None)
    if middleware:
        app.add_middleware(RateLimitMiddleware)
    bench = bench or LimiterBench()
    installed = bench.install(app)
    return TestClient(installed, raise_server_exceptions=False, client=(address, 1))


def statuses(client: TestClient, *callers: str, path: str = "/a") -> list[int]:
    """Return the status of a request of each caller."""
    return [client.get(path, headers=caller(each)).status_code for each in callers]


@both_doors
@pytest.mark.parametrize(
    "exempt",
    [
        Exemption(tiers=["staff"]),
        Exemption(principals=["ann"]),
        lambda connection: connection.headers["x-caller"].startswith("ann"),
    ],
)
def test_exempt_caller_is_not_limited(*, exempt: Any, middleware: bool) -> None:
    """Other callers are limited, and a credential that does not verify exempts no one."""
    client = client_of(RateLimit("1/minute", exempt=exempt), middleware=middleware)
    assert statuses(client, *["ann/staff"] * 3) == [200] * 3
    assert statuses(client, "bob", "bob") == [200, 429]
    assert statuses(client, "invalid", "invalid") == [200, 429]


@both_doors
def test_exempt_request_is_counted_as_exempt_and_has_no_headers(*, middleware: bool) -> None:
    """Its decision names the policy; the limits that do apply are in the headers."""
    bench = LimiterBench()
    decided: list[CheckDecided] = []

    class Decisions:
        def on_event(self, event: Any) -> None:
            if isinstance(event, CheckDecided):
                decided.append(event)

    bench.limiter.add_observers([Decisions()])
    limits = [
        RateLimit("1/minute", name="one", exempt=Exemption(tiers=["staff"])),
        RateLimit("9/hour", name="nine"),
    ]
    client = client_of(*limits, middleware=middleware, bench=bench)
    found = client.get("/a", headers=caller("ann/staff"))
    assert list(parse_limits(found)) == ["nine"]
    outcomes = {each.policy: each.outcome for each in decided[0].decision.results}
    assert outcomes == {"one": Outcome.EXEMPT, "nine": Outcome.ALLOWED}
    assert decided[0].decision.outcome is Outcome.ALLOWED


@both_doors
def test_request_that_every_policy_exempts_is_exempt(*, middleware: bool) -> None:
    """No store call is made, no header is sent, and the reservation can be corrected."""
    bench = LimiterBench()
    limit = RateLimit("1/minute", exempt=Exemption(routes=["/health"]))
    client = client_of(
        limit,
        ConcurrencyLimit(1, exempt=Exemption(routes=["/health"])),
        middleware=middleware,
        bench=bench,
    )
    for _ in range(3):
        found = client.get("/health")
        assert found.status_code == 200
        assert not {"ratelimit", "ratelimit-policy"} & set(found.headers)
    assert bench.store.acquire_calls == 0
    assert [client.get("/a").status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("address", "networks", "is_exempt"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("192.0.2.1", ["10.0.0.0/8"], False),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("2001:db8::1", ["2001:db8::/64"], True),
        ("2001:db8::1", ["2001:db8::1"], True),
        ("2001:db8::2", ["2001:db8::1"], False),
        ("testclient", ["10.0.0.0/8"], False),
    ],
)
def test_exempt_network_is_compared_with_the_own_address(
    *, address: str, networks: list[str], is_exempt: bool
) -> None:
    """One address of a /64 may be exempt while the others are not."""
    limit = RateLimit("1/minute", exempt=Exemption(networks=networks))
    client = client_of(limit, address=address)
    assert [client.get("/a").status_code for _ in range(2)] == [200, 200 if is_exempt else 429]


def test_exempt_network_needs_a_valid_header_of_a_trusted_proxy() -> None:
    """A client behind a proxy does not count as the proxy, whatever it sends."""
    bench = LimiterBench()
    resolver = ClientAddressResolver(["10.0.0.0/8"])
    bench.http_limiter.identifier = RequestIdentifier(resolver, resolver=resolve_x_caller)
    limit = RateLimit("1/minute", exempt=Exemption(networks=["10.0.0.0/8", "203.0.113.0/24"]))
    client = client_of(limit, bench=bench, address="10.0.0.1")

    def found(forwarded: str) -> list[int]:
        headers = {"x-forwarded-for": forwarded}
        return [client.get("/a", headers=headers).status_code for _ in range(2)]

    assert found("203.0.113.7") == [200, 200]
    assert found("10.0.0.9, 192.0.2.1") == [200, 429]
    assert found("bogus") == [200, 429]


def test_policy_exempts_callers_that_share_its_cached_plan() -> None:
    """Each request of one principal is decided by its own address."""
    limit = RateLimit("1/minute", exempt=Exemption(networks=["10.0.0.0/8"]))
    bench = LimiterBench()
    inside = client_of(limit, bench=bench, address="10.0.0.1")
    assert statuses(inside, "ann", "ann") == [200, 200]
    outside = client_of(limit, bench=bench)
    assert statuses(outside, "ann", "ann") == [200, 429]
    assert statuses(inside, "ann") == [200]


def _raising(_connection: HTTPConnection) -> bool:
    raise RuntimeError("no directory")


async def _never(_connection: HTTPConnection) -> bool:
    await asyncio.Event().wait()
    raise AssertionError


@both_doors
@pytest.mark.parametrize(
    ("exempt", "message"),
    [
        (_raising, "no directory"),
        (_never, "did not return within 0 s"),
        (lambda _connection: "yes", "returned str, which exempts nothing"),
        (lambda _connection: 1, "returned int, which exempts nothing"),
        (lambda _connection: None, "returned NoneType, which exempts nothing"),
    ],
)
def test_exempt_function_that_fails_exempts_nothing(
    *, exempt: Any, message: str, middleware: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The request is limited, and the log has the reason."""
    bench = LimiterBench()
    bench.http_limiter.function_timeout_s = 0
    limit = RateLimit("1/minute", exempt=exempt)
    client = client_of(limit, middleware=middleware, bench=bench)
    assert statuses(client, "ann", "ann") == [200, 429]
    assert "exempt.failed" in caplog.text
    assert message in caplog.text


def test_functions_of_an_exempt_request_are_not_called() -> None:
    """A limit that exempts a request needs neither its key nor its cost."""

    def fail(_connection: HTTPConnection) -> Any:
        raise AssertionError

    async def is_staff(_connection: HTTPConnection) -> bool:
        return True

    limits = [
        RateLimit("1/minute", key=fail, cost=fail, exempt=is_staff),
        RateLimit("1/hour", key="path:missing", exempt=Exemption(routes=["/a"])),
    ]
    assert statuses(client_of(*limits), "ann", "ann") == [200, 200]


@both_doors
def test_exempt_of_the_limiter_covers_all_policies(*, middleware: bool) -> None:
    """`Fleetlimit(exempt=...)` exempts from every policy, by lists or by a function."""
    for exempt in (
        Exemption(principals=["ann"], networks=["10.0.0.0/8"]),
        lambda connection: connection.headers.get("x-caller") == "ann",
    ):
        app = FastAPI()
        app.get("/a", dependencies=[Depends(RateLimit("1/minute"))])(lambda: None)
        if middleware:
            app.add_middleware(RateLimitMiddleware)
        policies = PolicySet([Policy("default", "1/hour")])

        async def resolve(connection: HTTPConnection) -> Principal | None:
            name = connection.headers.get("x-caller")
            return Principal(name) if name else None

        app.router.lifespan_context = Fleetlimit(policies=policies, exempt=exempt, resolver=resolve)
        with TestClient(app) as client:
            assert statuses(client, "ann", "ann", "bob", "bob") == [200, 200, 200, 429]


def test_policy_exempts_a_websocket() -> None:
    """A handshake of an exempt caller is accepted beyond the limit."""
    policy = Policy("chat", "1/minute", match=Match(), exempt=Exemption(tiers=["staff"]))
    app = FastAPI()

    @app.websocket("/ws")
    async def chat(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    app.add_middleware(RateLimitMiddleware)
    client = TestClient(LimiterBench(policy).install(app))
    for _ in range(3):
        with client.websocket_connect("/ws", headers=caller("ann/staff")):
            pass
    with client.websocket_connect("/ws", headers=caller("bob")):
        pass
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/ws", headers=caller("bob")),
    ):
        pass


async def test_exemption_by_lists_applies_to_checks_by_hand() -> None:
    """The caller and the tier are known without a connection; a function is not called."""
    staff = Policy("staff", "1/minute", match=Match(), exempt=Exemption(tiers=["staff"]))
    function = Policy("function", "1/minute", match=Match(), exempt=_raising)
    bench = LimiterBench(staff, function)
    ann = Principal("ann", "staff")
    for _ in range(3):
        decision = await bench.limiter.check("staff", principal=ann)
        assert decision.outcome is Outcome.EXEMPT
        assert [each.outcome for each in decision.results] == [Outcome.EXEMPT]
    assert (await bench.limiter.peek("staff", principal=ann)).outcome is Outcome.EXEMPT
    assert (await bench.limiter.check("function", principal=ann)).allowed
    assert not (await bench.limiter.check("function", principal=ann)).allowed


def test_default_does_not_apply_in_place_of_a_policy_that_exempts() -> None:
    """The policy covers the request, and exempts it."""
    policies = [
        Policy("default", "1/minute"),
        Policy(
            "all", "1/minute", match=Match(routes=("/a",)), exempt=Exemption(principals=["ann"])
        ),
    ]
    client = client_of(middleware=True, bench=LimiterBench(*policies))
    assert statuses(client, "ann", "ann", "bob", "bob") == [200, 200, 200, 429]


def test_rejection_by_another_policy_stays() -> None:
    """An exemption from one policy is none from the others, whose denial is cached."""
    policies = [
        Policy("one", "9/minute", match=Match(), exempt=Exemption(principals=["ann"])),
        Policy("two", "1/minute", match=Match()),
    ]
    client = client_of(PolicyLimit("one"), middleware=True, bench=LimiterBench(*policies))
    found = [client.get("/a", headers=caller("ann")) for _ in range(3)]
    assert [each.status_code for each in found] == [200, 429, 429]
    assert found[2].json()["violated-policies"] == ["two"]
    assert list(parse_limits(found[2])) == ["two"]


def _returns_text(_connection: HTTPConnection) -> str:
    return ""


def _wrong(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_wrong_exemption_is_an_error_where_it_is_written() -> None:
    """The message says what to write."""
    wrong: Any = "staff"
    kind: Any = Exemption
    _wrong(lambda: RateLimit("1/minute", exempt=wrong), "exempt='staff' exempts nothing: write")
    _wrong(lambda: RateLimit("1/minute", exempt=kind), "exempts nothing: write Exemption")
    _wrong(lambda: Fleetlimit(exempt=wrong), "exempts nothing: write")
    no_argument: Any = lambda: True  # noqa: E731 - the mistake
    _wrong(lambda: RateLimit("1/minute", exempt=no_argument), "called with one argument")
    _wrong(lambda: Fleetlimit(exempt=no_argument), "called with one argument")
    returns_text: Any = _returns_text
    _wrong(lambda: RateLimit("1/minute", exempt=returns_text), "return bool")
    _wrong(Exemption, "without entries exempts nothing")
    _wrong(lambda: Exemption(tiers=[""]), "tiers is a list of texts")
    _wrong(lambda: Exemption(tiers=["(unverified)"]), "did not verify exempts nothing")
    _wrong(lambda: Exemption(networks=["0.0.0.0/0"]), "exempts every client")
    _wrong(lambda: Exemption(networks=["10.0.0.1/8"]), "write 10.0.0.0/8")
    _wrong(lambda: Exemption(networks=["office"]), "is not a network: write an address")
    _wrong(lambda: Exemption(networks=["::ffff:10.0.0.0/104"]), "write 10.0.0.0/8")
    _wrong(lambda: Exemption(routes=["health"]), "write a template such as /health")
    _wrong(lambda: Exemption(routes=["/*/health"]), "only at the end")


def test_exemption_has_one_text_in_all_processes() -> None:
    """Names of limits contain a hash of it."""
    exemption = Exemption(tiers=["b", "a"], principals="ann", networks=["10.0.0.0/8"], routes="/h*")
    assert repr(exemption) == (
        "Exemption(tiers=['a', 'b'], principals=['ann'], networks=['10.0.0.0/8'], routes=['/h*'])"
    )
    assert repr(Policy("p", "1/minute", exempt=exemption)).endswith(f"exempt={exemption!r})")

"""Endpoints of the admin port."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio
from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from starlette.middleware.gzip import GZipMiddleware
from starlette.testclient import TestClient

from fleetlimit import Fleetlimit, Policy, PolicyLimit, PolicySet
from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Match
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import StoreUnavailable
from fleetlimit.limiter.events import CheckDecided, Event
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.store_replies import HeartbeatReply
from fleetlimit.server.admin.app import AdminState, create_admin_app
from fleetlimit.server.admin.health import ReplicaStatus
from fleetlimit.server.admin.token import FailedLogins
from fleetlimit.server.wrap import WrappedApp
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.testing import ManualClock
from support.clock import ManualClock as StoreClock
from support.cluster_nodes import ClusterBench
from support.eventually import eventually_async
from support.limiter import Bench, FakeStore, rate_policy
from support.traced_apps import get

TOKEN = {"Authorization": "Bearer s3cret-token"}
POLICIES = PolicySet(
    [
        Policy("default", "2/day", tiers={"pro": "9/day"}),
        Policy(
            "routes",
            "2/day",
            key=(KeyPart(KeyKind.PRINCIPAL), KeyPart(KeyKind.ROUTE)),
        ),
    ],
    generation=3,
    digest="abc",
    source="a test",
)


class Served:
    """App behind the limiter and its admin app, without sockets."""

    def __init__(self, token: str | None = None, policies: PolicySet = POLICIES) -> None:
        self.fleetlimit = Fleetlimit(policies=policies, clock=ManualClock())
        self.fleetlimit.activate_policies()
        self.app = FastAPI(openapi_url=None)
        self.app.add_api_route("/items/{item_id}", lambda: None)
        wrapped = WrappedApp(self.app, self.fleetlimit)
        self.admin = AdminState(self.fleetlimit, wrapped, token)
        self.api = TestClient(self.app, client=("192.0.2.1", 1))
        self.port = TestClient(create_admin_app(self.admin))

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Send a body with the admin token, and return status and answer."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = self.port.post(
            path, content=content, headers=TOKEN if headers is None else headers
        )
        return response.status_code, response.json()

    def reset(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Send a reset, and return status and answer."""
        return self.post("/reset", body, headers)

    def explain(self, **body: Any) -> Any:
        """Return the explanation of a request."""
        status, answer = self.post("/explain", body)
        assert status == 200, answer
        return answer

    def statuses(self, times: int) -> list[int]:
        """Send requests to the API, and return each status."""
        return [self.api.get("/items/1").status_code for _ in range(times)]


class RouteObserver:
    """Observer that records the route of each decision."""

    def __init__(self) -> None:
        self.routes: list[str] = []

    def on_event(self, event: Event) -> None:
        """Record a decision."""
        if isinstance(event, CheckDecided):
            self.routes.append(event.route)


@pytest.fixture
def served() -> Served:
    return Served("s3cret-token")


def test_livez_returns_200(served: Served) -> None:
    """Liveness depends on nothing else."""
    response = served.port.get("/livez")
    assert (response.status_code, response.text) == (200, "ok\n")


@pytest.mark.parametrize(
    ("status", "code"),
    [(ReplicaStatus.STARTING, 503), (ReplicaStatus.READY, 200), (ReplicaStatus.DRAINING, 503)],
)
def test_readyz_returns_status_and_details(
    served: Served, status: ReplicaStatus, code: int
) -> None:
    """Only a ready replica returns 200; the body has the details in each phase."""
    served.admin.status = status
    response = served.port.get("/readyz")
    assert response.status_code == code
    report = response.json()
    assert report["status"] == status
    assert report["store"] == {"location": "memory://", "shared": False, "status": "ok"}
    assert report["policies"] == {
        "generation": 3,
        "digest": "abc",
        "source": "a test",
        "count": 2,
        "rejected": [],
    }
    assert report["replicas"] == 1


def test_metrics_have_two_formats(served: Served) -> None:
    """The Accept header selects OpenMetrics; the default is the Prometheus text format."""
    served.statuses(3)
    plain = served.port.get("/metrics")
    assert 'fleetlimit_decisions_total{outcome="denied",policy="default"} 1.0' in plain.text
    assert plain.headers["content-type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert served.port.get("/metrics", headers=accept).text.endswith("# EOF\n")


class _ThreadRecorder(Collector):
    """Collector that records the threads in which it is scraped."""

    def __init__(self) -> None:
        self.threads: set[int] = set()

    def describe(self) -> Iterable[Metric]:
        """Return no metric."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Record the thread."""
        self.threads.add(threading.get_ident())
        return ()


async def test_metrics_are_rendered_beside_the_event_loop() -> None:
    """A scrape does not delay the requests of the API."""
    recorder, registry = _ThreadRecorder(), CollectorRegistry(support_collectors_without_names=True)
    registry.register(recorder)
    async with Fleetlimit(policies=POLICIES, registry=registry) as fleetlimit:
        admin = create_admin_app(AdminState(fleetlimit, WrappedApp(FastAPI(), fleetlimit)))
        assert await get(admin, "/metrics") == 200
    assert recorder.threads
    assert threading.get_ident() not in recorder.threads


def test_top_lists_the_most_denied_callers(served: Served) -> None:
    """The callers are hashed."""
    served.statuses(5)
    denied = served.port.get("/top").json()["denied"]
    assert [(each["policy"], each["count"], each["error"]) for each in denied] == [
        ("default", 3, 0)
    ]
    assert denied[0]["subject"] not in {"192.0.2.1", ""}


def test_policies_lists_policies_and_routes(served: Served) -> None:
    """The list has the active policies with their tiers, and the policies of each route."""
    body = served.port.get("/policies").json()
    assert (body["generation"], body["digest"], body["source"]) == (3, "abc", "a test")
    default = body["policies"][0]
    assert default["limits"][0]["limit"] == 2
    assert default["tiers"]["pro"][0]["limit"] == 9
    assert body["coverage"] == [
        {"method": "GET", "route": "/items/{item_id}", "policies": ["default"]},
        {"method": "ANY", "route": "unmatched", "policies": ["default"]},
    ]


def test_explain_spends_nothing(served: Served) -> None:
    """The explanation has route, identity and state of the limits, and spends no units."""
    request = {
        "path": "/items/7",
        "method": "get",
        "headers": ["X-Some: thing"],
        "client_address": "192.0.2.1",
    }
    for _ in range(5):
        body = served.explain(**request)
        assert (body["method"], body["route"]) == ("GET", "GET /items/{item_id}")
        assert body["identity"]["client_address"] == "192.0.2.1"
        assert body["policies"][0]["status"][0]["limits"][0]["remaining"] == 2
    assert served.statuses(3) == [200, 200, 429]
    body = served.explain(**request)
    assert body["policies"][0]["status"][0]["outcome"] == "denied"
    assert body["policies"][0]["status"][0]["limits"][0]["retry_after_seconds"] > 0


def test_explain_answers_for_the_named_principal(served: Served) -> None:
    """The limits and the key are those of the principal and its tier."""
    body = served.explain(path="/items/7", principal="alice", tier="pro")
    assert (body["identity"]["principal"], body["identity"]["tier"]) == ("alice", "pro")
    subject = served.fleetlimit.limiter.subject_hash(Subject(principal=Principal("alice")))
    assert body["identity"]["subject"] == subject
    assert body["policies"][0]["status"][0]["limits"][0]["remaining"] == 9


def test_explain_joins_repeated_headers() -> None:
    """A header that is part of the key counts as in a request that repeats it."""
    policy = Policy("teams", "2/day", match=Match(), key=(KeyPart(KeyKind.HEADER, "x-team"),))
    served = Served("s3cret-token", PolicySet([policy]))
    lines = [("X-Team", "a"), ("x-team", "b")]
    assert served.api.get("/items/1", headers=lines).status_code == 200
    body = served.explain(path="/items/1", headers=[f"{name}: {value}" for name, value in lines])
    assert body["policies"][0]["status"][0]["limits"][0]["remaining"] == 1


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "not JSON"),
        (b'{"path": "/"', "not JSON"),
        ([], "write path"),
        ({}, "path: Field required; write path, method"),
        ({"path": "items"}, "write one without a query, such as /items/1"),
        ({"path": "/items/1?page=2"}, "write one without a query, such as /items/1"),
        ({"path": "/", "headers": ["s3cret-key"]}, "write 'Name: value'"),
        ({"path": "/", "headers": ["a name: s3cret-key"]}, "write 'Name: value'"),
        ({"path": "/", "headers": {"X-API-Key": "s3cret-key"}}, "headers: "),
        ({"path": "/", "headers": ["a: b"] * 101}, "headers: "),
        ({"path": "/", "methode": "GET"}, "methode: "),
        ({"path": "/", "method": "FETCH"}, "write one of "),
        ({"path": "/", "method": 7}, "method: "),
        ({"path": "/", "tier": "pro"}, "write the principal"),
        ({"path": "/", "principal": ""}, "write its name"),
        ({"path": "/", "address": "192.0.2.1"}, "write path, method, headers, client_address"),
        (b'"' + b"x" * 70_000 + b'"', "write fewer"),
        (rb'{"path": "/\ud800"}', "not JSON"),
        (rb'{"path": "/", "headers": ["X-Some: \ud800"]}', "not JSON"),
    ],
)
def test_explain_rejects_an_invalid_body(served: Served, body: Any, detail: str) -> None:
    """An invalid body is a 400 with the fix and without the values."""
    status, answer = served.post("/explain", body)
    assert (status, answer["status"]) == (400, 400)
    assert detail in answer["detail"]
    assert "s3cret" not in answer["detail"]


@pytest.mark.parametrize("host", ["api.example.com", "api.example.com:8000", "API.example.com"])
def test_explain_routes_by_host(served: Served, host: str) -> None:
    """A port in the Host header is not part of the name, as in a request."""
    app = FastAPI(openapi_url=None)
    hosted = FastAPI(openapi_url=None)
    hosted.add_api_route("/orders", lambda: None)
    app.host("api.example.com", hosted)
    served.admin.wrapped = WrappedApp(app, served.fleetlimit)
    assert served.explain(path="/orders", headers=[f"Host: {host}"])["route"] == "GET /orders"


async def test_explain_of_a_replica_answers_after_the_store_lost_its_state(
    valkey: EmbeddedValkey,
) -> None:
    """Until the next heartbeat the store has no record of the replica that answers."""
    fleetlimit = Fleetlimit(store=valkey.url, policies=POLICIES)
    async with fleetlimit, redis.asyncio.from_url(valkey.url) as client:
        wrapped = WrappedApp(FastAPI(), fleetlimit)
        admin = create_admin_app(AdminState(fleetlimit, wrapped, "s3cret-token"))
        transport = httpx.ASGITransport(admin)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as port:
            await fleetlimit.limiter.check("default", principal="alice")
            await client.flushall()
            body = {"path": "/", "principal": "alice"}
            response = await port.post("/explain", json=body, headers=TOKEN)
    assert response.status_code == 200, response.text
    assert response.json()["policies"][0]["status"][0]["limits"][0]["remaining"] == 2


@pytest.mark.parametrize("wrapper", [None, GZipMiddleware])
@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/items/7", "GET /items/{item_id}"),
        ("/api/items/7", "GET /items/{item_id}"),
        ("/api/files/a", "GET /files/{name}"),
        # Starlette serves mounts below the root path only.
        ("/files/a", "ANY /files/{path:path}"),
        ("/apical/items/7", "unmatched"),
        ("/api/api/items/7", "unmatched"),
    ],
)
def test_explain_routes_below_the_root_path(wrapper: Any, path: str, route: str) -> None:
    """A path with and without the app's `root_path` has the route that a request has."""
    served = Served("s3cret-token")
    observer = RouteObserver()
    served.fleetlimit.limiter.add_observers((observer,))
    app = FastAPI(openapi_url=None)
    app.root_path = "/api"  # newer versions of FastAPI deprecate the argument
    files = FastAPI(openapi_url=None)
    files.add_api_route("/{name}", lambda: None)
    app.mount("/files", files)
    app.add_api_route("/items/{item_id}", lambda: None)
    served.admin.wrapped = WrappedApp(app if wrapper is None else wrapper(app), served.fleetlimit)
    TestClient(served.admin.wrapped.app).get(path)
    assert served.explain(path=path)["route"] == route
    assert observer.routes == [route]


def test_explain_knows_a_route_that_was_added_later(served: Served) -> None:
    """The routes are those that the app has now, as in a request and in `/policies`."""
    app = served.api.app
    assert isinstance(app, FastAPI)
    app.add_api_route("/later", lambda: None)
    assert served.explain(path="/later")["route"] == "GET /later"
    app.add_api_route("/last", lambda: None)
    coverage = served.port.get("/policies").json()["coverage"]
    assert "/last" in [each["route"] for each in coverage]


def test_policies_lists_the_routes_beside_one_without_its_policy(served: Served) -> None:
    """A route that names no existing policy is listed with the other ones that apply to it."""
    missing = Depends(PolicyLimit("missing"))
    served.app.add_api_route("/broken", lambda: None, dependencies=[missing])
    coverage = served.port.get("/policies").json()["coverage"]
    assert {"method": "GET", "route": "/broken", "policies": ["default"]} in coverage
    assert len(coverage) == 3


@pytest.mark.parametrize("path", ["/items/a%20b", "/%69tems/7", "/items/%3F", "/items/%"])
def test_explain_decodes_the_path(served: Served, path: str) -> None:
    """A path is written as in the URL, and routed as the server routes it."""
    assert served.api.get(path).status_code == 200
    assert served.explain(path=path)["route"] == "GET /items/{item_id}"


def test_explain_decodes_a_separator(served: Served) -> None:
    """An encoded slash separates, as for the server."""
    assert served.api.get("/items/a%2Fb").status_code == 404
    assert served.explain(path="/items/a%2Fb")["route"] == "unmatched"


@pytest.mark.parametrize("address", ["", "nonsense", "::ffff:192.0.2.1", "2001:db8::1%eth0"])
def test_explain_accepts_any_address(served: Served, address: str) -> None:
    """An address that does not parse is not an error."""
    assert served.explain(path="/", client_address=address)["policies"]


@pytest.mark.parametrize("path", ["/explain", "/reset"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_protected_endpoints_require_post(served: Served, path: str, method: str) -> None:
    """Another method is a 405 with the right one, also if its URL contains a credential."""
    response = served.port.request(method, f"{path}?path=/&header=X-API-Key:s3cret", headers=TOKEN)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers["content-type"] == "application/problem+json"
    if method != "HEAD":
        assert response.json()["detail"] == (
            f"{path} does not accept {method}: send POST with a JSON body and the admin token"
        )


def test_unknown_paths_are_problem_details(served: Served) -> None:
    """A wrong path and a wrong method of a page are named."""
    assert served.port.get("/nothing").json()["detail"] == "there is no /nothing"
    response = served.port.post("/policies")
    assert response.status_code == 405
    assert sorted(response.headers["allow"].split(", ")) == ["GET", "HEAD"]
    detail = f"/policies does not accept POST: send {response.headers['allow']}"
    assert response.json()["detail"] == detail


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/policies", "/top"])
def test_pages_without_secrets_need_no_token(served: Served, path: str) -> None:
    """Pages that disclose neither credentials nor names of callers stay open."""
    assert served.port.get(path).status_code == 200


def test_reset_deletes_the_buckets_of_a_caller(served: Served) -> None:
    """After a reset, the caller has its full limit again."""
    assert served.statuses(3) == [200, 200, 429]
    status, body = served.reset({"policy": "default", "client_address": "192.0.2.1"})
    assert (status, body) == (200, {"policy": "default", "buckets": 1})
    assert served.statuses(3) == [200, 200, 429]
    status, body = served.reset({"policy": "default", "principal": "alice"})
    assert status == 404
    assert "has no bucket of this caller" in body["detail"]


def test_reset_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The line has the address of the client, the policy and the hash of the caller."""
    caplog.set_level(logging.INFO, "fleetlimit")
    served.statuses(1)
    served.reset({"policy": "default", "client_address": "192.0.2.1"})
    served.reset({"policy": "default", "principal": "alice"})
    lines = [line for line in caplog.messages if "event=buckets.reset" in line]
    subject = served.fleetlimit.limiter.subject_hash(Subject("192.0.2.1"))
    assert f"client=testclient policy=default subject={subject} buckets=1" in lines[0]
    assert "buckets=0" in lines[1]
    assert "alice" not in caplog.text


def test_wrong_tokens_are_logged_and_limited(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """After ten wrong tokens a minute the answer is 429; the right token is still accepted."""
    served.admin.failed_logins = FailedLogins(ManualClock())
    wrong = {"Authorization": "Bearer wrong"}
    body = {"policy": "default", "client_address": "192.0.2.1"}
    paths = ["/reset", "/explain"] * 6
    answers = [served.post(path, body, wrong) for path in paths]
    assert [status for status, _ in answers] == [401] * 10 + [429] * 2
    assert "too many wrong tokens: wait 6 s" in answers[-1][1]["detail"]
    assert caplog.text.count("event=admin.rejected client=testclient") == 10
    served.statuses(1)
    assert served.reset(body)[0] == 200


def test_reset_finds_a_bucket_by_its_route() -> None:
    """A policy that is keyed by route has a bucket for each route."""
    served = Served("s3cret-token")
    assert asyncio.run(served.fleetlimit.limiter.check("routes", principal="alice")).allowed
    request = {"policy": "routes", "principal": "alice"}
    assert served.reset({**request, "route": "POST /other"})[0] == 404
    assert served.reset(request)[1]["buckets"] == 1


@pytest.mark.parametrize("path", ["/explain", "/reset"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic s3cret-token"},
        {"Authorization": "Bearer s3cret-tokén".encode("latin-1").decode("latin-1")},
        {"Authorization": "s3cret-token"},
    ],
)
def test_protected_endpoints_require_the_token(
    served: Served, path: str, headers: dict[str, str]
) -> None:
    """A missing or wrong token is a 401 before the body is read, and the bucket stays."""
    served.statuses(3)
    raw = [(name, value.encode("latin-1")) for name, value in headers.items()]
    response = served.port.post(path, content=b"not JSON", headers=raw)  # type: ignore[arg-type]  # bytes
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "s3cret" not in response.text
    assert served.statuses(1) == [429]


def test_token_beyond_ascii_is_sent_in_utf_8() -> None:
    """The token that the settings accept is the one that a client sends."""
    served = Served("s3cret-tokén")
    header = [(b"Authorization", "Bearer s3cret-tokén".encode())]
    response = served.port.post("/explain", json={"path": "/"}, headers=header)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/explain", "/reset"])
def test_protected_endpoints_are_disabled_without_a_token(path: str) -> None:
    """Without a configured token, no token is accepted, not even an empty one."""
    served = Served()
    for headers in ({}, {"Authorization": "Bearer "}, TOKEN):
        status, body = served.post(path, {"policy": "default", "principal": "alice"}, headers)
        assert (status, body["detail"]) == (404, f"set FLEETLIMIT_ADMIN_TOKEN to offer POST {path}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"\xff",
        b"[" * 10_000,
        b'"' + b"x" * 70_000 + b'"',
        [],
        {},
        {"policy": "default"},
        {"principal": "alice"},
        {"policy": "default", "principal": "alice", "client_address": "192.0.2.1"},
        {"policy": "default", "principal": 7},
        {"policy": "default", "principal": "alice", "tier": "pro"},
        {"policy": "gone", "principal": "alice"},
    ],
)
def test_reset_rejects_an_invalid_body(served: Served, body: Any) -> None:
    """An invalid body is a 400 with the reason."""
    status, response = served.reset(body)
    assert (status, response["status"]) == (400, 400)
    assert response["detail"]


@pytest.mark.parametrize("path", ["/explain", "/reset"])
def test_another_key_secret_is_a_conflict(served: Served, path: str) -> None:
    """While replicas use another secret, neither can find the buckets of all replicas."""
    store = FakeStore(StoreClock())
    store.heartbeat_reply = HeartbeatReply(2, "first", key_secrets=frozenset({"another"}))
    limiter = Limiter(store, local=store.memory)
    served.fleetlimit.limiter.membership = limiter.membership
    body = {"path": "/"} if path == "/explain" else {"policy": "default", "principal": "alice"}
    status, answer = served.post(path, body)
    assert (status, answer["status"]) == (409, 409)
    assert "wait until every replica has it" in answer["detail"]


def test_reset_returns_503_without_the_store(served: Served) -> None:
    """A failure of the store is a 503 with its kind."""

    async def fail(_keys: object) -> int:
        raise StoreUnavailable("no response", kind="timeout")

    served.fleetlimit.limiter.store.delete = fail  # type: ignore[method-assign, assignment]  # a fake
    status, body = served.reset({"policy": "default", "principal": "alice"})
    assert (status, body["detail"]) == (503, "the store is unavailable: timeout")


def test_admin_port_is_not_limited(served: Served) -> None:
    """The policies do not apply to the admin port."""
    assert {served.port.get("/livez").status_code for _ in range(20)} == {200}


async def test_readyz_names_the_lost_servers_of_a_cluster(served: Served) -> None:
    """A Cluster without some of its servers is degraded; without all of them it is unavailable."""
    async with ClusterBench(rate_policy("a", "9/day"), rate_policy("b", "9/day")) as bench:
        served.fleetlimit.limiter = bench.limiter
        bench.store.errors["open"] = StoreUnavailable("lost", kind="connection")
        reports = [served.port.get("/readyz").json()["store"]]
        for node in ("a", "b"):
            bench.store.lost[node] = StoreUnavailable("lost", kind="connection")
            for _ in range(3):
                await bench.limiter.check(node, principal="ann")
            reports.append(served.port.get("/readyz").json()["store"])
        bench.store.errors["heartbeat"] = bench.store.errors["open"]
        for _ in range(3):
            await bench.limiter.membership.heartbeat()
        response = served.port.get("/readyz")
        reports.append(response.json()["store"])
    assert [each.get("failures") for each in reports] == [None, *[["connection"]] * 3]
    found = [(each["status"], each.get("unavailable_nodes")) for each in reports]
    assert found == [
        ("ok", None),
        ("degraded", ["a"]),
        ("degraded", ["a", "b"]),
        ("unavailable", ["a", "b", "replicas"]),
    ]


async def test_readyz_names_the_kind_of_failure(served: Served) -> None:
    """A store that rejects the password is not one that does not respond."""
    async with Bench(rate_policy("a", "9/day")) as bench:
        served.fleetlimit.limiter = bench.limiter
        bench.store.down = StoreUnavailable("WRONGPASS", kind="authentication")
        for _ in range(3):
            await bench.limiter.check("a", principal="ann")
        report = served.port.get("/readyz").json()["store"]
    assert (report["status"], report["failures"]) == ("unavailable", ["authentication"])


async def test_rejected_policy_file_is_reported_until_a_valid_one(tmp_path: Path) -> None:
    """`/readyz` and `/policies` have the errors of the file, beside the active policies."""
    file = tmp_path / "policies.yaml"
    valid = "version: 1\npolicies: [{name: a, limits: [{rate: 2/day}]}]\n"
    file.write_text(valid)
    fleetlimit = Fleetlimit(policies=file)
    wrapped = WrappedApp(FastAPI(), fleetlimit)
    state = AdminState(fleetlimit, wrapped, status=ReplicaStatus.READY)
    port = TestClient(create_admin_app(state))

    def rejected() -> list[str]:
        ready, listed = port.get("/readyz"), port.get("/policies")
        assert ready.status_code == listed.status_code == 200
        found: list[str] = listed.json()["rejected"]
        assert ready.json()["policies"]["rejected"] == found
        return found

    async with fleetlimit:
        assert not rejected()
        file.write_text(valid.replace("2/day", "2/dya"))
        (error,) = await eventually_async(rejected)
        assert error.startswith(f"{file}:2: ")
        file.write_text(valid)
        await eventually_async(lambda: not rejected())


def test_reset_bounds_the_body(served: Served) -> None:
    """A body above 64 KiB is not read to its end."""
    status, problem = served.reset(b" " * 65_537)
    assert status == 400
    assert problem["detail"] == "the body is above 65,536 bytes: write fewer values"
    assert served.reset(b" " * 65_536)[1]["detail"] == "the body is not JSON"

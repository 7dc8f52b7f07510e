"""The admin port: what it tells, and whom it lets give quota back."""

import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from fleetlimit import Fleetlimit, Policy, PolicySet, rate_quota
from fleetlimit.core.policy import KeyKind, KeyPart
from fleetlimit.errors import StoreUnavailable
from fleetlimit.server.admin.app import AdminState, create_admin_app
from fleetlimit.server.admin.health import ReplicaStatus
from fleetlimit.server.wrap import WrappedApp
from fleetlimit.testing import ManualClock

TOKEN = {"Authorization": "Bearer s3cret-token"}
POLICIES = PolicySet(
    [
        Policy("default", (rate_quota("2/day"),), tiers={"pro": (rate_quota("9/day"),)}),
        Policy(
            "routes",
            (rate_quota("2/day"),),
            key=(KeyPart(KeyKind.PRINCIPAL), KeyPart(KeyKind.ROUTE)),
        ),
    ],
    generation=3,
    digest="abc",
    source="a test",
)


class Served:
    """An app behind the limiter, and its admin port, without a socket."""

    def __init__(self, token: str | None = None) -> None:
        self.fleetlimit = Fleetlimit(policies=POLICIES, clock=ManualClock())
        self.fleetlimit.activate_policies()
        app = FastAPI(openapi_url=None)
        app.add_api_route("/items/{item_id}", lambda: None)
        wrapped = WrappedApp(app, self.fleetlimit)
        self.admin = AdminState(self.fleetlimit, wrapped.routes, token)
        self.api = TestClient(app, client=("192.0.2.1", 1))
        self.port = TestClient(create_admin_app(self.admin))

    def reset(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Ask for a reset, and return status and body."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self.port.post(
            "/reset", content=content, headers=TOKEN if headers is None else headers
        )
        return answer.status_code, answer.json()

    def statuses(self, times: int) -> list[int]:
        """Ask the API, and return each status."""
        return [self.api.get("/items/1").status_code for _ in range(times)]


@pytest.fixture
def served() -> Served:
    return Served("s3cret-token")


def test_alive(served: Served) -> None:
    """Liveness asks nobody."""
    answer = served.port.get("/livez")
    assert (answer.status_code, answer.text) == (200, "ok\n")


@pytest.mark.parametrize(
    ("status", "code"),
    [(ReplicaStatus.STARTING, 503), (ReplicaStatus.READY, 200), (ReplicaStatus.DRAINING, 503)],
)
def test_ready(served: Served, status: ReplicaStatus, code: int) -> None:
    """A replica is ready from the moment it accepts to the moment it drains; details are told."""
    served.admin.status = status
    answer = served.port.get("/readyz")
    assert answer.status_code == code
    told = answer.json()
    assert told["status"] == status
    assert told["store"] == {"location": "memory://", "shared": False, "status": "ok"}
    assert told["policies"] == {"generation": 3, "digest": "abc", "source": "a test", "count": 2}
    assert told["replicas"] == 1


def test_metrics_in_both_formats(served: Served) -> None:
    """A scraper gets OpenMetrics when it asks for it, and Prometheus' text when it does not."""
    served.statuses(3)
    plain = served.port.get("/metrics")
    assert 'fleetlimit_decisions_total{outcome="denied",policy="default"} 1.0' in plain.text
    assert plain.headers["content-type"].startswith("text/plain")
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    assert served.port.get("/metrics", headers=accept).text.endswith("# EOF\n")


def test_most_denied(served: Served) -> None:
    """The callers denied most are told as hashes."""
    served.statuses(5)
    denied = served.port.get("/top").json()["denied"]
    assert [(each["policy"], each["count"], each["error"]) for each in denied] == [
        ("default", 3, 0)
    ]
    assert denied[0]["subject"] not in {"192.0.2.1", ""}


def test_policies_and_what_they_hold(served: Served) -> None:
    """The policies in force are listed with their tiers and the routes that they hold."""
    told = served.port.get("/policies").json()
    assert (told["generation"], told["digest"], told["source"]) == (3, "abc", "a test")
    default = told["policies"][0]
    assert default["limits"][0]["limit"] == 2
    assert default["tiers"]["pro"][0]["limit"] == 9
    assert told["coverage"] == [
        {"method": "GET", "route": "/items/{item_id}", "policies": ["default"]},
        {"method": "ANY", "route": "unmatched", "policies": ["default"]},
    ]


def test_explanation_spends_nothing(served: Served) -> None:
    """A request is explained by its route, identity and standing, and is not counted."""
    query = {"path": "/items/7", "method": "get", "header": "X-Some: thing", "address": "192.0.2.1"}
    for _ in range(5):
        told = served.port.get("/explain", params=query).json()
        assert (told["method"], told["route"]) == ("GET", "GET /items/{item_id}")
        assert told["identity"]["client_address"] == "192.0.2.1"
        assert told["policies"][0]["standing"][0]["limits"][0]["remaining"] == 2
    assert served.statuses(3) == [200, 200, 429]
    told = served.port.get("/explain", params=query).json()
    assert told["policies"][0]["standing"][0]["outcome"] == "denied"
    assert told["policies"][0]["standing"][0]["limits"][0]["retry_after_seconds"] > 0


@pytest.mark.parametrize("query", ["", "?path=items", "?path=/&header=nonsense"])
def test_nothing_to_explain(served: Served, query: str) -> None:
    """A question that cannot be answered is a 400 that says what to write."""
    answer = served.port.get(f"/explain{query}")
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert "write" in answer.json()["detail"]


@pytest.mark.parametrize("address", ["", "nonsense", "::ffff:192.0.2.1", "2001:db8::1%eth0"])
def test_explanation_of_any_address(served: Served, address: str) -> None:
    """Whatever is given as an address, it is explained."""
    assert served.port.get("/explain", params={"path": "/", "address": address}).status_code == 200


def test_reset_gives_back(served: Served) -> None:
    """With the token a caller gets back what it has spent."""
    assert served.statuses(3) == [200, 200, 429]
    status, told = served.reset({"policy": "default", "client_address": "192.0.2.1"})
    assert (status, told) == (200, {"policy": "default", "buckets": 1})
    assert served.statuses(3) == [200, 200, 429]
    assert served.reset({"policy": "default", "principal": "alice"}) == (
        200,
        {"policy": "default", "buckets": 0},
    )


async def test_reset_of_a_bucket_per_route() -> None:
    """A bucket that is kept per route is found by its route."""
    served = Served("s3cret-token")
    assert (await served.fleetlimit.limiter.check("routes", principal="alice")).allowed
    body = {"policy": "routes", "principal": "alice"}
    assert served.reset({**body, "route": "POST /other"})[1]["buckets"] == 0
    assert served.reset(body)[1]["buckets"] == 1


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
def test_reset_without_the_token(served: Served, headers: dict[str, str]) -> None:
    """Without the right token nothing is given back."""
    served.statuses(3)
    raw = [(name, value.encode("latin-1")) for name, value in headers.items()]
    answer = served.port.post("/reset", content=b"{}", headers=raw)  # type: ignore[arg-type]  # bytes
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "s3cret" not in answer.text
    assert served.statuses(1) == [429]


def test_reset_is_disabled_without_a_token() -> None:
    """Without a configured token, no token is accepted, not even an empty one."""
    served = Served()
    for headers in ({}, {"Authorization": "Bearer "}, TOKEN):
        status, told = served.reset({"policy": "default", "principal": "alice"}, headers)
        assert (status, told["detail"]) == (404, "set FLEETLIMIT_ADMIN_TOKEN to offer POST /reset")


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
def test_reset_of_nonsense(served: Served, body: Any) -> None:
    """A body that says nothing that can be done is a 400 that tells why."""
    status, told = served.reset(body)
    assert (status, told["status"]) == (400, 400)
    assert told["detail"]


def test_reset_while_the_store_is_away(served: Served) -> None:
    """What cannot be given back now is a 503, and no 200."""

    async def away(_keys: object) -> int:
        raise StoreUnavailable("no answer", kind="timeout")

    served.fleetlimit.limiter.store.delete = away  # type: ignore[method-assign, assignment]  # away
    status, told = served.reset({"policy": "default", "principal": "alice"})
    assert (status, told["detail"]) == (503, "the store is unavailable: timeout")


def test_reset_is_a_post(served: Served) -> None:
    """Nothing is given back by a link."""
    assert served.port.get("/reset", headers=TOKEN).status_code == 405


def test_never_limited(served: Served) -> None:
    """However often it is asked, the admin port answers."""
    assert {served.port.get("/livez").status_code for _ in range(20)} == {200}

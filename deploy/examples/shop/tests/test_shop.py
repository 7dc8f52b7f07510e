"""Limits of the shop, with the clock of the test."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from shop.accounts import Accounts
from shop.main import create_app

from fleetlimit.testing import FleetlimitFactory, ManualClock

SECRET = "a secret of the tests, with more than 32 bytes"


@pytest.fixture
def client(tmp_path: Path, make_fleetlimit: FleetlimitFactory) -> Iterator[TestClient]:
    """Return a client of the app."""
    app = create_app(tmp_path / "shop.db", SECRET, make_fleetlimit)
    with TestClient(app) as client:
        yield client


def accounts_of(client: TestClient) -> Accounts:
    """Return the accounts of a client's app."""
    accounts: Accounts = cast("FastAPI", client.app).state.accounts
    return accounts


def headers_of(client: TestClient, name: str) -> dict[str, str]:
    """Log in, and return the headers of the user."""
    credentials = {"name": name, "password": f"{name}-secret"}
    token = client.post("/v1/login", json=credentials).json()["token"]
    return {"Authorization": f"Bearer {token}"}


def test_login_counts_wrong_passwords_only(
    client: TestClient, fleetlimit_clock: ManualClock
) -> None:
    """Any number of logins succeed, and after five failures none is tried for some minutes."""
    for _ in range(10):
        headers_of(client, "alice")
    wrong = {"name": "alice", "password": "guess"}
    statuses = [client.post("/v1/login", json=wrong).status_code for _ in range(7)]
    assert statuses == [401] * 5 + [429, 429]
    right = {"name": "alice", "password": "alice-secret"}
    assert client.post("/v1/login", json=right).status_code == 429
    fleetlimit_clock.advance(180)
    assert client.post("/v1/login", json=right).status_code == 200


def test_plans_are_limits_of_orders(client: TestClient) -> None:
    """The plan of each user has a rate in the table, and staff has none."""
    for name, admitted in (("alice", 2), ("bob", 5), ("root", 9)):
        headers = headers_of(client, name)
        statuses = [client.post("/v1/orders", headers=headers).status_code for _ in range(9)]
        assert statuses == [201] * admitted + [429] * (9 - admitted)
    assert client.post("/v1/orders").status_code == 401


def test_rejections_have_the_format_of_the_shop(client: TestClient) -> None:
    """The body is the shop's, and the fields of the limit are added."""
    headers = headers_of(client, "alice")
    answers = [client.post("/v1/orders", headers=headers) for _ in range(3)]
    rejected = answers[-1]
    assert rejected.status_code == 429
    assert rejected.json()["error"]["status"] == 429
    assert int(rejected.headers["Retry-After"]) > 0
    assert '"orders"' in rejected.headers["RateLimit"]
    assert client.post("/v1/orders").json() == {"error": {"status": 401, "message": "log in first"}}


def test_uploads_are_limited_and_bounded(client: TestClient) -> None:
    """Ten uploads a minute, each of at most a megabyte."""
    headers = headers_of(client, "alice")
    statuses = [
        client.put(f"/v1/uploads/{n}", headers=headers, content=b"x" * 99).status_code
        for n in range(11)
    ]
    assert statuses == [201] * 10 + [429]
    headers = headers_of(client, "bob")
    large = client.put("/v1/uploads/large", headers=headers, content=b"x" * 1_000_001)
    assert large.status_code == 413


def test_events_stream_and_release_their_slot(client: TestClient) -> None:
    """A stream that has ended makes room for the next."""
    headers = headers_of(client, "alice")
    for _ in range(3):
        answer = client.get("/v1/events", headers=headers)
        assert answer.text.count("data: ") == 3


def test_chat_limits_messages_and_connections(
    client: TestClient, fleetlimit_clock: ManualClock
) -> None:
    """Three messages in ten seconds, and five connections in a minute."""
    headers = headers_of(client, "alice")
    with client.websocket_connect("/v1/chat", headers=headers) as socket:
        answers: list[dict[str, Any]] = []
        for number in range(4):
            socket.send_text(f"hello {number}")
            answers.append(socket.receive_json())
        assert [each.get("text") for each in answers] == ["hello 0", "hello 1", "hello 2", None]
        fleetlimit_clock.advance(answers[-1]["retry_after"])
        socket.send_text("again")
        assert socket.receive_json() == {"from": "alice", "text": "again"}


def test_health_and_documentation_are_never_limited(client: TestClient) -> None:
    """They are exempt; other routes have the default limit by address."""
    for path in ("/health", "/openapi.json"):
        assert {client.get(path).status_code for _ in range(70)} == {200}
    statuses = [client.get("/v1/items/1").status_code for _ in range(61)]
    assert statuses == [200] * 60 + [429]


def test_schema_states_the_limits(client: TestClient) -> None:
    """The schema has the response 429 and the limits of each limited route."""
    order = client.get("/openapi.json").json()["paths"]["/v1/orders"]["post"]
    assert "429" in order["responses"]
    assert "x-ratelimit" in order


def test_usage_states_what_is_left(client: TestClient) -> None:
    """The caller sees its own limit of the plan, and looking spends nothing."""
    headers = headers_of(client, "bob")
    client.post("/v1/orders", headers=headers)
    for _ in range(2):
        limits = client.get("/v1/usage", headers=headers).json()["limits"]
        (orders,) = [each for each in limits if each["policy"] == "orders"]
        assert (orders["limit"], orders["remaining"]) == (5, 4)


def test_plan_that_changes_in_the_table(client: TestClient, fleetlimit_clock: ManualClock) -> None:
    """A changed plan is used once the cached answer is too old."""
    headers = headers_of(client, "alice")
    assert [client.post("/v1/orders", headers=headers).status_code for _ in range(3)][-1] == 429
    accounts_of(client).database.set_orders("free", "20/minute")
    fleetlimit_clock.advance(3_600)
    statuses = [client.post("/v1/orders", headers=headers).status_code for _ in range(21)]
    assert statuses == [201] * 20 + [429]

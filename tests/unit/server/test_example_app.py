"""Routes of the example app behind the limiter."""

import pytest
from starlette.testclient import TestClient

from fleetlimit.server.example_app import create_app
from fleetlimit.server.settings import EXAMPLE_POLICIES
from fleetlimit.server.wrap import WrappedApp
from fleetlimit.testing import FleetlimitFactory


@pytest.fixture
def client(make_fleetlimit: FleetlimitFactory) -> TestClient:
    fleetlimit = make_fleetlimit(EXAMPLE_POLICIES)
    fleetlimit.activate_policies()
    return TestClient(WrappedApp(create_app(), fleetlimit).app, client=("192.0.2.1", 1))


def test_exports_are_limited(client: TestClient) -> None:
    """Five exports a minute are admitted, the sixth is rejected."""
    answers = [client.post("/exports") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[0].json() == {"status": "queued"}


def test_items_share_a_bucket(client: TestClient) -> None:
    """Requests for different items spend the bucket of the template."""
    assert client.get("/items/7").json() == {"item_id": 7}
    assert '"items.tb1";r=98' in client.get("/items/8").headers["ratelimit"]


@pytest.mark.parametrize(("lines", "text"), [(-1, ""), (2, "line 0\nline 1\n")])
def test_stream_sends_lines(client: TestClient, lines: int, text: str) -> None:
    """The stream has the requested number of lines."""
    assert client.get(f"/stream?lines={lines}").text == text


def test_websocket_echoes_texts(client: TestClient) -> None:
    """Each text is sent back."""
    with client.websocket_connect("/ws") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"


def test_whoami_returns_the_identity(client: TestClient) -> None:
    """The response has principal, address and hashed subject."""
    seen = client.get("/whoami").json()
    assert (seen["principal"], seen["client_address"]) == (None, "192.0.2.1")
    assert len(seen["subject"]) == 16

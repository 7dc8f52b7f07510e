"""Tests of the how-to pages: every example on them runs, and limits as the page says."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse

from fleetlimit import RateLimitExceeded, RateLimitMiddleware
from fleetlimit.httpx import RateLimitTimeout
from fleetlimit.testing import ManualClock
from support.pages import Load, write_keys


def test_proxies_clients_behind_a_trusted_proxy_have_their_own_buckets(load: Load) -> None:
    """The address from the proxy's header counts; what a client writes to its left does not."""
    app = load("docs/how-to/proxies.md", "proxied").app
    with TestClient(app, client=("10.0.0.1", 40_000)) as client:
        forwarded = [
            client.get("/", headers={"X-Forwarded-For": f"{number}.1.1.1, {address}"}).status_code
            for address in ("203.0.113.7", "203.0.113.8")
            for number in range(4)
        ]
    assert forwarded == [200, 200, 200, 429] * 2
    with TestClient(app, client=("192.0.2.1", 40_000)) as client:
        direct = [
            client.get("/", headers={"X-Forwarded-For": f"203.0.113.{number}"}).status_code
            for number in range(4)
        ]
    assert direct == [200, 200, 200, 429]


def test_proxies_header_with_the_address_alone(load: Load) -> None:
    """`CF-Connecting-IP` counts behind the trusted proxy."""
    recipe = load("docs/how-to/proxies.md", "proxied")
    app = FastAPI(lifespan=recipe.Fleetlimit(policies="cdn.yaml"))
    app.add_middleware(RateLimitMiddleware)
    statuses = []
    with TestClient(app, client=("10.0.0.1", 40_000)) as client:
        for address in ("203.0.113.7", "203.0.113.8"):
            headers = {"CF-Connecting-IP": address, "X-Forwarded-For": "1.1.1.1"}
            statuses += [client.get("/", headers=headers).status_code for _ in range(4)]
    assert statuses == [404, 404, 404, 429] * 2


def test_workers_example_limits(load: Load) -> None:
    """The example admits ten requests of a caller."""
    with TestClient(load("docs/how-to/workers.md", "workers").app) as client:
        assert [client.get("/quotes").status_code for _ in range(11)] == [200] * 10 + [429]


def test_apps_named_limit_is_shared_and_mount_has_policies_of_the_outer_app(load: Load) -> None:
    """Routes of the router share a bucket; the mounted app has its own limit and the file's."""
    with TestClient(load("docs/how-to/apps.md", "mounts").app) as client:
        shared = [client.get(f"/catalog/{each}").status_code for each in ("items", "brands") * 2]
        users = [client.get("/admin/users") for _ in range(3)]
    assert shared == [200, 200, 200, 429]
    assert [each.status_code for each in users] == [200, 200, 429]
    assert '"administration";q=5;w=60' in users[0].headers["ratelimit-policy"]


def test_apps_mounted_app_with_its_own_limiter(load: Load) -> None:
    """The mounted app with a limiter of its own limits its route."""
    with TestClient(load("docs/how-to/apps.md", "separate").main_app) as client:
        orders = [client.get("/partners/orders").status_code for _ in range(3)]
    assert orders == [200, 200, 429]


def test_streams_websocket_handshakes_and_open_connections(load: Load) -> None:
    """Two connections may be open; a third is rejected with 429, and admitted after one closed."""
    with TestClient(load("docs/how-to/streams.md", "chat").app) as client:
        with client.websocket_connect("/chat") as first, client.websocket_connect("/chat"):
            first.send_text("hello")
            assert first.receive_text() == "hello"
            with (
                pytest.raises(WebSocketDenialResponse) as rejected,
                client.websocket_connect("/chat"),
            ):
                pass
            assert rejected.value.status_code == 429
        with client.websocket_connect("/chat"):
            pass
        assert client.get("/events").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_streams_messages_are_limited(load: Load, fleetlimit_clock: ManualClock) -> None:
    """Three messages a second are answered; the fourth gets the time to wait."""
    app = load("docs/how-to/streams.md", "messages").app
    with TestClient(app) as client, client.websocket_connect("/room") as socket:
        received = []
        for text in "abcd":
            socket.send_text(text)
            received.append(socket.receive_text())
        assert received[:3] == ["a", "b", "c"]
        assert json.loads(received[3])["error"] == "slow down"
        assert 0 < json.loads(received[3])["retry_after"] <= 1
        fleetlimit_clock.advance(1)
        socket.send_text("e")
        assert socket.receive_text() == "e"


def test_uploads_spend_their_size(load: Load, fleetlimit_clock: ManualClock) -> None:
    """Bodies spend KiB; one above the burst can never be admitted; a minute refills 10 MiB."""
    with TestClient(load("docs/how-to/uploads.md", "uploads").app) as client:
        assert client.put("/files/a", content=bytes(4096 * 1024)).json() == {"size": 4_194_304}
        rejected = client.put("/files/a", content=bytes(1025))
        assert rejected.status_code == 429
        fleetlimit_clock.advance(int(rejected.headers["Retry-After"]))
        assert client.put("/files/a", content=bytes(1025)).status_code == 200
        assert client.put("/files/a", content=bytes(4096 * 1024 + 1)).status_code == 413
        assert client.put("/files/a", content=iter([b"chunk"])).status_code == 411


def test_uploads_of_unknown_size_commit_it(load: Load) -> None:
    """A chunked body reserves the most, and spends its size."""
    with TestClient(load("docs/how-to/uploads.md", "chunked").app) as client:
        received = [client.put("/streams/a", content=iter([bytes(2048)])) for _ in range(20)]
        assert [each.status_code for each in received] == [200] * 20
        assert received[-1].headers["ratelimit"].startswith('"chunked-kibibytes";r=10200;')
        assert client.put("/streams/a", content=iter([bytes(1024 * 1025)])).status_code == 413


def test_logins_count_failures_only(load: Load, fleetlimit_clock: ManualClock) -> None:
    """Successes spend nothing; the sixth failure within a quarter of an hour is rejected."""
    with TestClient(load("docs/how-to/logins.md", "logins").app) as client:

        def login(password: str) -> int:
            form = {"user": "alice", "password": password}
            return client.post("/login", json=form).status_code

        assert [login("correct horse") for _ in range(20)] == [200] * 20
        assert [login("guess") for _ in range(6)] == [401] * 5 + [429]
        assert login("correct horse") == 429
        fleetlimit_clock.advance(180)
        assert login("correct horse") == 200


def test_logins_by_account(load: Load) -> None:
    """Ten attempts for an account an hour; other accounts are not affected."""
    with TestClient(load("docs/how-to/logins.md", "accounts").app) as client:
        alice = {"user": "alice", "password": "guess"}
        statuses = [client.post("/login", json=alice).status_code for _ in range(12)]
        bob = {"user": "bob", "password": "correct horse"}
        assert client.post("/login", json=bob).status_code == 200
    assert statuses == [401] * 10 + [429] * 2


def test_llm_tokens_of_the_answer_are_spent(load: Load) -> None:
    """The policy reserves the stated maximum, and spends the tokens of the answer."""
    with TestClient(load("docs/how-to/llm-tokens.md", "llm").app) as client:
        fields = [
            client.post("/v1/chat/completions", json=body).headers["ratelimit"]
            for body in ({"max_tokens": 200}, {"max_tokens": 100}, {})
        ]
    assert '"tokens";r=9800' in fields[0]
    assert '"tokens";r=9870' in fields[1]  # 30 of the first answer, and 100 of this estimate
    assert '"tokens";r=9440' in fields[2]


def test_llm_tokens_reserve_and_commit(load: Load) -> None:
    """Requests are admitted while the estimate fits; only the actual tokens stay spent."""
    with TestClient(load("docs/how-to/llm-tokens.md", "completions").app) as client:
        answers = [client.post("/completions", json={"text": "one two"}) for _ in range(3)]
        assert [each.json()["tokens"] for each in answers] == [4, 4, 4]
        assert '"tokens";r=9988' in answers[-1].headers["ratelimit"]


def test_exemptions_of_routes_tiers_and_networks(load: Load, tmp_path: Path) -> None:
    """Health checks, staff and the office are not limited; other callers are."""
    write_keys(tmp_path / "keys.yaml", alice="staff", bob="free")
    app = load("docs/how-to/exemptions.md", "exempted").app
    with TestClient(app) as client:
        assert {client.get("/healthz").status_code for _ in range(20)} == {200}
        assert {client.get("/docs").status_code for _ in range(20)} == {200}
        quotes = [
            [client.get("/quotes", headers={"X-API-Key": name}).status_code for _ in range(7)]
            for name in ("alice", "bob")
        ]
    assert quotes == [[200] * 7, [200, 200, 429, 429, 429, 429, 429]]
    with TestClient(app, client=("192.0.2.1", 40_000)) as client:
        assert {client.get("/missing").status_code for _ in range(7)} == {404}


def test_plans_are_by_the_month(load: Load, fleetlimit_clock: ManualClock) -> None:
    """A plan is spent until the month ends in Berlin, and whole from that instant on."""
    with TestClient(load("docs/how-to/plans.md", "plans").app) as client:

        def admitted() -> int:
            found = 0
            while (answer := client.get("/search")).status_code == 200:
                found += 1
                fleetlimit_clock.advance(0.05)
            left.append(int(answer.headers["Retry-After"]))
            return found

        left: list[int] = []
        assert admitted() == 100
        fleetlimit_clock.advance(left[0] - 1)
        assert client.get("/search").status_code == 429
        fleetlimit_clock.advance(1)
        assert admitted() == 100
        assert 28 * 86_400 - 10 < left[1] < 31 * 86_400 + 3_600


def test_lambda_example_limits(load: Load) -> None:
    """The example admits ten requests of a caller."""
    with TestClient(load("docs/how-to/lambda.md", "lambda_app").app) as client:
        assert [client.get("/quotes").status_code for _ in range(11)] == [200] * 10 + [429]


def test_jobs_messages_and_endpoints_are_checked_by_hand(load: Load) -> None:
    """Each message of a WebSocket spends, and so do the rows of an import and a `def` endpoint."""
    with TestClient(load("docs/how-to/jobs.md", "rooms").app) as client:
        with client.websocket_connect("/chat") as socket:
            replies = []
            for number in range(3):
                socket.send_text(str(number))
                replies.append(socket.receive_text())
        assert replies[:2] == ["0", "1"]
        assert replies[2].startswith("wait ")
        assert client.post("/imports", json=["row"] * 99).json() == 99
        assert client.get("/report").status_code == 200
        assert client.get("/report").status_code == 429
        assert client.post("/invitations/bob").status_code == 200


async def test_jobs_check_for_the_callers_that_they_name(load: Load) -> None:
    """A job raises above the limit of a caller, in async code and in other code."""
    nightly = load("docs/how-to/jobs.md", "nightly")
    assert await nightly.send_all(["ann", "bob", "ann"]) == 3
    with pytest.raises(RateLimitExceeded):
        await nightly.send_all(["ann", "ann", "ann"])
    assert await asyncio.to_thread(nightly.send_one, "ann") == "ann"


def test_jobs_decorator_limits_the_calls_of_a_function(load: Load) -> None:
    """The caller is made from the arguments of the call."""
    tasks = load("docs/how-to/jobs.md", "tasks")
    try:
        assert [tasks.send_sms("1", "a"), tasks.send_sms("1", "b"), tasks.send_sms("2", "a")]
        with pytest.raises(RateLimitExceeded):
            tasks.send_sms("1", "c")
    finally:
        tasks.limits.sync().close()


async def test_jobs_transport_limits_outgoing_calls(load: Load) -> None:
    """The third call to a host within a minute would wait for longer than it may."""
    provider = load("docs/how-to/jobs.md", "provider")
    service = httpx.MockTransport(lambda _: httpx.Response(204))
    async with provider.limits, provider.make_client(service) as client:
        for host in ("a", "a", "b"):
            assert (await client.get(f"https://{host}/")).status_code == 204
        with pytest.raises(RateLimitTimeout):
            await client.get("https://a/")


def test_errors_in_an_own_format_keep_the_limit_headers(load: Load) -> None:
    """The function's answer has the headers of both formats, and the schema states the limit."""
    with TestClient(load("docs/how-to/errors.md", "errors").app) as client:
        rejected = [client.get("/quotes") for _ in range(11)][-1]
        schema = client.get("/openapi.json").json()
    assert rejected.status_code == 429
    assert rejected.json()["error"]["code"] == "limit"
    assert {"retry-after", "ratelimit", "x-ratelimit-used"} <= set(rejected.headers)
    assert schema["paths"]["/quotes"]["get"]["x-ratelimit"][0]["limits"][0]["limit"] == 10


def test_errors_by_the_handler_of_the_app_answer_rejections(load: Load) -> None:
    """The app's handler for HTTP errors answers, and the headers are added."""
    with TestClient(load("docs/how-to/errors.md", "handled").app) as client:
        assert client.get("/missing").json() == {"error": "Not Found"}
        rejected = [client.get("/quotes") for _ in range(11)][-1]
    assert rejected.status_code == 429
    assert rejected.json()["error"].startswith("The quota of default is spent")
    assert "retry-after" in rejected.headers


def test_users_are_named_by_a_resolver(load: Load) -> None:
    """Each user has a bucket, a rate of the database, or none; a wrong token has the address."""
    members = load("docs/how-to/users.md", "members")

    def statuses(client: TestClient, count: int, token: str = "") -> list[int]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return [client.get("/orders", headers=headers).status_code for _ in range(count)]

    def token(user_id: str) -> str:
        return str(members.jwt.encode({"sub": user_id}, members.SECRET, "HS256"))

    with TestClient(members.app) as client:
        assert statuses(client, 3, token("1")) == [200, 200, 429]
        assert statuses(client, 5, token("2")) == [200] * 4 + [429]
        assert statuses(client, 9, token("3")) == [200] * 9
        assert statuses(client, 2) == [401, 401]
        assert statuses(client, 1, "forged") == statuses(client, 1, token("4")) == [429]
        headers = {"Authorization": f"Bearer {token('3')}"}
        assert client.get("/orders", headers=headers).json() == {"user": "3"}

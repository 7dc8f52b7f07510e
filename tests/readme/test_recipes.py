"""Tests of the recipes: each scheme admits exactly the published numbers."""

import time
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi.testclient import TestClient

from fleetlimit import Principal, Subject
from fleetlimit.testing import ManualClock
from support.pages import Load, write_keys


def admitted(client: TestClient, method: str, path: str, **options: Any) -> int:
    """Return how many requests in succession are admitted before the first 429."""
    for number in range(1_000):
        response = client.request(method, path, **options)
        if response.status_code == 429:
            return number
        assert response.is_success, response.text
    raise AssertionError("no request was rejected")


def spend(
    client: TestClient, recipe: ModuleType, policy: str, caller: Principal | Subject, cost: int
) -> None:
    """Spend units of a policy without requests: thousands of them would take a minute."""

    async def check() -> bool:
        who = {"subject" if isinstance(caller, Subject) else "principal": caller}
        reservation = await recipe.limits.limiter.reserve(policy, cost=cost, **who)
        return bool(reservation.decision.allowed)

    assert client.portal is not None
    assert client.portal.call(check)


def key(name: str) -> dict[str, Any]:
    """Return the options of a request with the API key of a principal."""
    return {"headers": {"X-API-Key": name}}


def test_github_primary_limits(load: Load, tmp_path: Path, fleetlimit_clock: ManualClock) -> None:
    """60 an hour by address, 5,000 for a user, 15,000 for an enterprise, each to the unit."""
    write_keys(tmp_path / "keys.yaml", alice="user", actions="enterprise")
    recipe = load("docs/recipes/github.md", "github")
    path = "/repos/a/issues"
    with TestClient(recipe.app) as client:
        assert admitted(client, "GET", path) == 60
        rejected = client.get(path)
        assert rejected.headers["x-ratelimit-limit"] == "60"
        assert rejected.headers["x-ratelimit-remaining"] == "0"
        assert rejected.headers["x-ratelimit-used"] == "60"
        assert rejected.headers["x-ratelimit-resource"] == "core"
        for name, tier, limit in (("alice", "user", 5_000), ("actions", "enterprise", 15_000)):
            spend(client, recipe, "core", Principal(name, tier=tier), limit - 3)
            assert admitted(client, "GET", path, **key(name)) == 3
        fleetlimit_clock.advance(int(rejected.headers["Retry-After"]))
        assert client.get(path).status_code == 200


def test_github_secondary_limits(load: Load, tmp_path: Path, fleetlimit_clock: ManualClock) -> None:
    """900 points a minute on an endpoint, of which a write costs 5; 80 and 500 contents."""
    write_keys(tmp_path / "keys.yaml", alice="user", bob="user")
    recipe = load("docs/recipes/github.md", "github")
    with TestClient(recipe.app) as client:
        assert admitted(client, "POST", "/repos/a/issues", **key("alice")) == 80
        assert client.get("/repos/a/issues", **key("alice")).status_code == 200
        fleetlimit_clock.advance(60)
        # 80 issues of bob left 500 points of the endpoint, which 100 more writes would spend.
        assert admitted(client, "POST", "/repos/a/issues", **key("bob")) == 80
        violated = client.post("/repos/a/issues", **key("bob")).json()["violated-policies"]
        assert violated == ["content"]


def test_stripe_reads_and_writes_by_mode(load: Load, tmp_path: Path) -> None:
    """100 reads and writes a second in live mode, 25 in test mode; 20 of Files and of Search."""
    write_keys(tmp_path / "keys.yaml", live="live", test="test", other="live")
    recipe = load("docs/recipes/stripe.md", "stripe")
    with TestClient(recipe.app) as client:
        for policy in ("reads", "writes"):
            spend(client, recipe, policy, Principal("live", tier="live"), 95)
        assert admitted(client, "GET", "/v1/charges/1", **key("live")) == 5
        assert admitted(client, "POST", "/v1/charges", **key("live")) == 5
        assert admitted(client, "GET", "/v1/charges/1", **key("test")) == 25
        assert admitted(client, "POST", "/v1/charges", **key("test")) == 25
        assert admitted(client, "GET", "/v1/charges/search", **key("other")) == 20
        assert admitted(client, "GET", "/v1/files/1", **key("other")) == 20
        assert admitted(client, "POST", "/v1/files", **key("other")) == 20
        # Each of the 40 reads counted as a read, and the rejected ones did not.
        assert admitted(client, "GET", "/v1/charges/1", **key("other")) == 60


def test_stripe_meter_events(load: Load, tmp_path: Path) -> None:
    """Meter events have a limit of their own in live mode, and 25 a second in test mode."""
    write_keys(tmp_path / "keys.yaml", live="live", test="test")
    recipe = load("docs/recipes/stripe.md", "stripe")
    path = "/v1/billing/meter_events"
    with TestClient(recipe.app) as client:
        spend(client, recipe, "meter-events", Principal("live", tier="live"), 997)
        assert admitted(client, "POST", path, **key("live")) == 3
        assert client.post("/v1/charges", **key("live")).status_code == 200
        # In test mode a meter event is a write.
        assert client.post("/v1/charges", **key("test")).status_code == 200
        assert admitted(client, "POST", path, **key("test")) == 24


def test_cloudflare_user_address_and_graphql(
    load: Load, tmp_path: Path, fleetlimit_clock: ManualClock
) -> None:
    """1,200 in 5 minutes for a user, 200 a second for an address, 320 queries in 5 minutes."""
    write_keys(tmp_path / "keys.yaml", alice=None, bob=None)
    recipe = load("docs/recipes/cloudflare.md", "cloudflare")
    with TestClient(recipe.app) as client:
        assert admitted(client, "GET", "/client/v4/zones", **key("alice")) == 200
        fleetlimit_clock.advance(1)
        spend(client, recipe, "client", Principal("alice"), 997)
        assert admitted(client, "GET", "/client/v4/zones", **key("alice")) == 3
        rejected = client.get("/client/v4/zones", **key("alice"))
        assert '"client";r=0;t=299' in rejected.headers["ratelimit"]
        spend(client, recipe, "graphql", Principal("bob"), 318)
        assert admitted(client, "POST", "/client/v4/graphql", **key("bob")) == 2


def test_x_limits_of_app_and_user(
    load: Load, tmp_path: Path, fleetlimit_clock: ManualClock
) -> None:
    """The published numbers of each endpoint, for an app and for a user, in their windows."""
    write_keys(tmp_path / "keys.yaml", app="app", user="user")
    recipe = load("docs/recipes/x.md", "x")
    app, user = Principal("app", tier="app"), Principal("user", tier="user")
    published = (
        ("lookup", "GET", "/2/tweets", 3_500, 5_000),
        ("search", "GET", "/2/tweets/search/recent", 450, 300),
        ("create", "POST", "/2/tweets", 10_000, 100),
    )
    with TestClient(recipe.app) as client:
        for policy, method, path, *limits in published:
            for caller, limit in zip((app, user), limits, strict=True):
                spend(client, recipe, policy, caller, limit - 2)
                assert admitted(client, method, path, **key(caller.name)) == 2
        assert admitted(client, "DELETE", "/2/tweets/1", **key("user")) == 50
        rejected = client.post("/2/tweets", **key("user"))
        assert rejected.headers["x-rate-limit-limit"] == "100"
        assert rejected.headers["x-rate-limit-remaining"] == "0"
        # The end of the window, as an instant of the server's clock.
        wait = int(rejected.headers["Retry-After"])
        assert 0 <= int(rejected.headers["x-rate-limit-reset"]) - time.time() - wait + 60 <= 120
        fleetlimit_clock.advance(int(rejected.headers["Retry-After"]))
        assert admitted(client, "POST", "/2/tweets", **key("user")) == 100
        assert client.post("/2/tweets", **key("app")).status_code == 429


def test_slack_methods_have_their_own_buckets(
    load: Load, tmp_path: Path, fleetlimit_clock: ManualClock
) -> None:
    """Each method has its tier's limit for each app in a workspace."""
    write_keys(tmp_path / "keys.yaml", market="marketplace", wild="distributed")
    recipe = load("docs/recipes/slack.md", "slack")
    with TestClient(recipe.app) as client:
        assert admitted(client, "GET", "/api/conversations.list", **key("market")) == 40
        assert admitted(client, "GET", "/api/users.list", **key("market")) == 40
        assert admitted(client, "GET", "/api/conversations.history", **key("market")) == 100
        assert admitted(client, "GET", "/api/users.info", **key("market")) == 200
        assert admitted(client, "GET", "/api/conversations.history", **key("wild")) == 1
        for channel in ("C1", "C2"):
            message = {"json": {"channel": channel, "text": "hello"}, **key("wild")}
            assert admitted(client, "POST", "/api/chat.postMessage", **message) == 5
            fleetlimit_clock.advance(1)
            assert admitted(client, "POST", "/api/chat.postMessage", **message) == 1
        fleetlimit_clock.advance(60)
        assert admitted(client, "GET", "/api/conversations.list", **key("market")) == 20
        assert admitted(client, "GET", "/api/conversations.history", **key("wild")) == 1


def test_shopify_points_and_refund(
    load: Load, tmp_path: Path, fleetlimit_clock: ManualClock
) -> None:
    """A query needs its requested cost, and spends the actual one; 100 points a second return."""
    write_keys(tmp_path / "keys.yaml", shop="standard", plus="plus")
    recipe = load("docs/recipes/shopify.md", "shopify")

    def query(name: str, cost: int) -> int:
        headers = {"X-Shopify-Access-Token": name, "X-Requested-Cost": str(cost)}
        return client.post("/admin/api/graphql.json", json={}, headers=headers).status_code

    with TestClient(recipe.app) as client:
        # Of 2,000 points 1,008 are left. 4 of each query stay spent, so three of 1,000 fit.
        spend(client, recipe, "graphql", Principal("shop", tier="standard"), 992)
        assert [query("shop", 1000) for _ in range(4)] == [200] * 3 + [429]
        fleetlimit_clock.advance(1)
        assert [query("shop", 1000) for _ in range(26)] == [200] * 25 + [429]
        rest = {"headers": {"X-Shopify-Access-Token": "shop"}}
        assert admitted(client, "GET", "/admin/api/rest/orders.json", **rest) == 40
        fleetlimit_clock.advance(1)
        assert admitted(client, "GET", "/admin/api/rest/orders.json", **rest) == 2


def test_discord_global_and_channel_limits(
    load: Load, tmp_path: Path, fleetlimit_clock: ManualClock
) -> None:
    """5 messages in 5 seconds for each channel, 50 requests a second of a bot, Discord's answer."""
    write_keys(tmp_path / "keys.yaml", bot=None)
    recipe = load("docs/recipes/discord.md", "discord")
    with TestClient(recipe.app) as client:
        for channel in (1, 2):
            assert admitted(client, "POST", f"/channels/{channel}/messages", **key("bot")) == 5
        rejected = client.post("/channels/1/messages", **key("bot"))
        assert rejected.json() == {
            "message": "You are being rate limited.",
            "retry_after": 5,
            "global": False,
        }
        assert rejected.headers["X-RateLimit-Scope"] == "user"
        assert rejected.headers["X-RateLimit-Bucket"] == "messages"
        assert rejected.headers["X-RateLimit-Limit"] == "5"
        assert rejected.headers["X-RateLimit-Reset-After"] == "5"
        # The messages that were admitted counted globally, and the rejected ones did not.
        assert admitted(client, "GET", "/channels/1", **key("bot")) == 40
        rejected = client.get("/channels/1", **key("bot"))
        assert rejected.headers["X-RateLimit-Global"] == "true"
        assert rejected.json()["global"] is True
        fleetlimit_clock.advance(5)
        assert client.post("/channels/1/messages", **key("bot")).status_code == 200


def test_discord_invalid_requests(load: Load, tmp_path: Path) -> None:
    """The 10,001st request of an address whose answer is a 403 within ten minutes is rejected."""
    write_keys(tmp_path / "keys.yaml", bot=None)
    recipe = load("docs/recipes/discord.md", "discord")
    address = Subject(client_address="testclient", route="GET /guilds/{guild_id}")
    with TestClient(recipe.app) as client:
        spend(client, recipe, "invalid-requests", address, 9_997)
        assert client.get("/channels/1", **key("bot")).status_code == 200
        statuses = [client.get("/guilds/1", **key("bot")).status_code for _ in range(4)]
        assert statuses == [403, 403, 403, 429]


def test_openai_requests_and_tokens(
    load: Load, tmp_path: Path, fleetlimit_clock: ManualClock
) -> None:
    """500 requests and 30,000 tokens a minute of tier 1, with OpenAI's headers and errors."""
    write_keys(tmp_path / "keys.yaml", small="tier-1", large="tier-5")
    recipe = load("docs/recipes/openai.md", "openai_limits")
    path, body = "/v1/chat/completions", {"max_tokens": 1000}
    with TestClient(recipe.app) as client:
        first = client.post(path, json=body, **key("small"))
        assert first.headers["x-ratelimit-limit-tokens"] == "30000"
        assert first.headers["x-ratelimit-remaining-tokens"] == "29000"
        assert first.headers["x-ratelimit-remaining-requests"] == "499"
        # The answer had 30 tokens.
        second = client.post(path, json=body, **key("small"))
        assert second.headers["x-ratelimit-remaining-tokens"] == "28970"
        spend(client, recipe, "tokens", Principal("small", tier="tier-1"), 29_000)
        rejected = client.post(path, json=body, **key("small"))
        assert rejected.status_code == 429
        assert rejected.json()["error"]["type"] == "tokens"
        assert rejected.json()["error"]["code"] == "rate_limit_exceeded"
        fleetlimit_clock.advance(int(rejected.headers["Retry-After"]))
        assert client.post(path, json=body, **key("small")).status_code == 200
        large = client.post(path, json=body, **key("large"))
        assert large.headers["x-ratelimit-limit-tokens"] == "30000000"

"""Known faults of other limiters in HTTP handling: one test each, named after the issue."""

import hashlib
import logging
from pathlib import Path
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.testclient import TestClient

from fleetlimit import Fleetlimit, Policy, PolicySet, RateLimit, RateLimitMiddleware
from fleetlimit.core.policy import Match
from fleetlimit.testing import FleetlimitFactory

ONE_A_DAY = PolicySet([Policy("default", "1/day")])


def limited(fleetlimit: Fleetlimit) -> FastAPI:
    """Return an app with the middleware on every route."""
    app = FastAPI(lifespan=fleetlimit)
    app.add_middleware(RateLimitMiddleware)
    router = APIRouter(prefix="/v1")

    @router.get("/items/{item}")
    async def read(item: str) -> str:
        return item

    @app.get("/plain")
    async def plain() -> str:
        return "plain"

    @app.get("/own", dependencies=[Depends(RateLimit("1/day", name="own"))])
    async def own() -> str:
        return "own"

    app.include_router(router)
    return app


def statuses(client: TestClient, *paths: str, **headers: str) -> list[int]:
    """Return the status of each GET in turn."""
    return [client.get(path, headers=headers).status_code for path in paths]


def test_slowapi_281_included_and_top_level_routes_are_both_limited(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """A route's limit holds wherever the framework keeps the route."""
    policies = PolicySet(
        [
            Policy("items", "1/day", match=Match(routes=("/v1/items/{item}",))),
            Policy("plain", "1/day", match=Match(routes=("/plain",))),
        ]
    )
    with TestClient(limited(make_fleetlimit(policies))) as client:
        assert statuses(client, "/v1/items/1", "/v1/items/1") == [200, 429]
        assert statuses(client, "/plain", "/plain") == [200, 429]


def test_slowapi_281_unmatched_paths_have_the_default_policy(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """An unknown path does not bypass the limit."""
    with TestClient(limited(make_fleetlimit(ONE_A_DAY))) as client:
        assert statuses(client, "/nowhere", "/elsewhere") == [404, 429]


def test_slowapi_217_227_path_parameters_share_a_bucket(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """All items share the bucket of their route template."""
    with TestClient(limited(make_fleetlimit(ONE_A_DAY))) as client:
        assert statuses(client, "/v1/items/1", "/v1/items/2") == [200, 429]


@pytest.mark.parametrize("path", ["/plain", "/own"])
def test_fastapi_limiter_80_pyratelimiter_238_two_callers_have_two_buckets(
    make_fleetlimit: FleetlimitFactory, tmp_path: Path, path: str
) -> None:
    """At the middleware and at the dependency, one caller's requests do not spend another's."""
    with TestClient(limited(make_fleetlimit(_with_keys(tmp_path, "alice", "bob")))) as client:
        keys = ("alice", "bob", "alice", "bob")
        found = [client.get(path, headers={"X-API-Key": key}).status_code for key in keys]
    assert found == [200, 200, 429, 429]


def _with_keys(folder: Path, *keys: str) -> Path:
    lines = [
        f"- {{sha256: {hashlib.sha256(key.encode()).hexdigest()}, principal: {key}}}"
        for key in keys
    ]
    (folder / "keys.yaml").write_text("keys:\n" + "\n".join(lines) + "\n")
    file = folder / "policies.yaml"
    file.write_text(
        "version: 1\n"
        "identity: {trusted_proxies: [10.0.0.0/8], api_keys: {file: keys.yaml}}\n"
        "policies: [{name: default, limits: [{rate: 1/day}]}]\n"
    )
    return file


def test_slowapi_255_306_forged_address_or_key_gets_no_new_bucket(
    make_fleetlimit: FleetlimitFactory, tmp_path: Path
) -> None:
    """An untrusted client stays in one bucket, whatever its headers contain."""
    app = limited(make_fleetlimit(_with_keys(tmp_path, "alice")))
    with TestClient(app, client=("192.0.2.1", 1)) as client:
        assert statuses(client, "/plain") == [200]
        for number in range(5):
            forged = {"X-Forwarded-For": f"203.0.113.{number}", "X-API-Key": f"key-{number}"}
            assert client.get("/plain", headers=forged).status_code == 429
    with TestClient(app, client=("10.0.0.1", 1)) as proxied:
        first = {"X-Forwarded-For": "203.0.113.1"}
        assert proxied.get("/plain", headers=first).status_code == 200
        spoofed = {"X-Forwarded-For": "198.51.100.9, 203.0.113.1"}
        assert proxied.get("/plain", headers=spoofed).status_code == 429


def test_slowapi_174_endpoint_needs_no_request_argument(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """A limit is a dependency and does not change the endpoint's signature."""
    app = FastAPI(lifespan=make_fleetlimit(None))

    @app.get("/")
    async def read(_: Annotated[object, Depends(RateLimit("1/day"))]) -> None:
        return None

    with TestClient(app) as client:
        assert statuses(client, "/", "/") == [200, 429]


def test_envoy_45384_gateway_5693_only_a_rejection_has_retry_after(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """Retry-After is on every 429 and on no 200."""
    with TestClient(limited(make_fleetlimit(ONE_A_DAY))) as client:
        admitted, rejected = client.get("/plain"), client.get("/plain")
    assert "Retry-After" not in admitted.headers
    assert int(rejected.headers["Retry-After"]) == 86_400
    assert rejected.headers["RateLimit"] == '"default";r=0;t=86400'


def test_envoyproxy_ratelimit_331_341_994_callers_add_no_time_series(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """Twenty callers add no time series; logs identify them by hash."""
    fleetlimit = make_fleetlimit(ONE_A_DAY)
    with TestClient(limited(fleetlimit), client=("192.0.2.1", 1)) as client:
        client.get("/plain")
        client.get("/plain")
    # The audit's metrics of a policy exist after the first report.
    before = len(fleetlimit.metrics.render()[0].splitlines())
    for number in range(20):
        with TestClient(limited(fleetlimit), client=(f"198.51.100.{number}", 1)) as client:
            client.get("/plain")
            client.get("/plain")
    body = fleetlimit.metrics.render()[0]
    assert len(body.splitlines()) == before
    assert b"198.51.100" not in body
    assert fleetlimit.top_denied.report()


def test_dependency_without_setup_limits_the_process_and_warns_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dependency alone limits, within the process, and logs one warning."""
    monkeypatch.delenv("FLEETLIMIT_STORE", raising=False)
    app = FastAPI()

    @app.get("/", dependencies=[Depends(RateLimit("2/day"))])
    async def read() -> None:
        return None

    with caplog.at_level(logging.WARNING):
        assert statuses(TestClient(app), "/", "/", "/") == [200, 200, 429]
    # Limiters of other tests may not be collected yet.
    lines = [each for each in caplog.messages if not each.startswith("limiter.not_used ")]
    assert len(lines) == 1
    assert "store.not_shared" in lines[0]

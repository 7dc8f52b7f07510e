"""Targets of `fleetlimit serve`: an ASGI app, a FastAPI app, and the bundled example app."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from support.eventually import eventually_async
from support.server import ServeProcess, fetch, send

DEBUG = {"FLEETLIMIT_LOG_LEVEL": "DEBUG"}
TOKEN = "a-token-of-the-admin"  # noqa: S105 - of this test alone
PLAIN = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})
"""
FASTAPI = """
from fastapi import APIRouter, FastAPI

router = APIRouter(prefix="/v1")


@router.get("/orders/{order_id}")
async def order(order_id: int) -> int:
    return order_id


app = FastAPI()
app.include_router(router)
"""
OWN_FLEETLIMIT = """
from fastapi import Depends, FastAPI
from fleetlimit import Fleetlimit, PolicyLimit, RateLimitMiddleware

app = FastAPI(lifespan=Fleetlimit())
app.add_middleware(RateLimitMiddleware)


@app.get("/orders", dependencies=[Depends(PolicyLimit("orders"))])
async def orders() -> list[int]:
    return []
"""


def policies(folder: Path, route: str, *, name: str = "orders", rate: str = "2/day") -> None:
    fresh = folder / "policies.tmp"
    fresh.write_text(
        "version: 1\npolicies:\n"
        "  - {name: default, limits: [{rate: 1000/day}]}\n"
        f'  - {{name: {name}, match: {{routes: ["{route}"]}}, limits: [{{rate: {rate}}}]}}\n'
    )
    fresh.rename(folder / "policies.yaml")


async def test_plain_asgi_app_is_limited_by_policy_templates(tmp_path: Path) -> None:
    """Templates of policies limit a plain ASGI app, those of a reload included."""
    (tmp_path / "plain.py").write_text(PLAIN)
    policies(tmp_path, "/orders/{id}")
    with ServeProcess(
        "plain:app", "--policies", "policies.yaml", folder=tmp_path, settings=DEBUG
    ) as service:
        await service.ready()
        answers = [await service.get(f"/orders/{number}") for number in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[0].body == b"plain"
        assert answers[2].headers["content-type"] == "application/problem+json"
        assert (await service.get("/other")).status == 200
        assert {line["route"] for line in service.logged("route.limited")} == {
            "/orders/{id}",
            "unmatched",
        }

        policies(tmp_path, "/carts/{id}", name="carts", rate="1/day")
        await eventually_async(lambda: len(service.logged("policies.loaded")) == 2)
        assert [(await service.get("/carts/1")).status for _ in range(2)] == [200, 429]
        assert (await service.admin("/policies")).json["generation"] == 2

        (tmp_path / "policies.yaml").write_text("version: 1\npolicies: [{name: 7}]\n")
        await eventually_async(lambda: service.logged("policies.rejected"))
        assert (await service.get("/carts/1")).status == 429
        assert await service.metric("fleetlimit_policy_reloads_total", 'result="failure"') >= 1


async def test_fastapi_app_is_limited_by_its_routes(tmp_path: Path) -> None:
    """An app that does not import the package is limited by the templates of its routes."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(FASTAPI)
    policies(tmp_path, "/v1/orders/{order_id}")
    with ServeProcess(
        folder=tmp_path,
        settings={
            "FLEETLIMIT_TARGET": "shop.main:app",
            "FLEETLIMIT_POLICIES": "policies.yaml",
            "FLEETLIMIT_ADMIN_TOKEN": TOKEN,
            **DEBUG,
        },
    ) as service:
        await service.ready()
        statuses = [(await service.get(f"/v1/orders/{number}")).status for number in range(3)]
        assert statuses == [200, 200, 429]
        policies_by_route = {
            line["route"]: line["policies"] for line in service.logged("route.limited")
        }
        assert policies_by_route["/v1/orders/{order_id}"] == ["orders"]
        explanation = await fetch(
            service.admin_port,
            "/explain",
            method="POST",
            headers={"Authorization": f"Bearer {TOKEN}"},
            body=b'{"path": "/v1/orders/9"}',
        )
        assert explanation.json["route"] == "GET /v1/orders/{order_id}"
        assert explanation.json["policies"][0]["status"][0]["outcome"] == "denied"


async def test_app_with_its_own_fleetlimit_has_one_limiter(tmp_path: Path) -> None:
    """The app's own `Fleetlimit` delegates to that of the service, and is one replica."""
    (tmp_path / "own.py").write_text(OWN_FLEETLIMIT)
    policies(tmp_path, "/other")
    with ServeProcess("own:app", "--policies", "policies.yaml", folder=tmp_path) as service:
        await service.ready()
        assert [(await service.get("/orders")).status for _ in range(3)] == [200, 200, 429]
        assert await service.metric("fleetlimit_checks_total") == 3
        assert len(service.logged("store.not_shared")) == 1

        policies(tmp_path, "/other", name="renamed")
        rejected = await eventually_async(lambda: service.logged("policies.rejected"))
        assert "routes depend on orders" in rejected[0]["errors"][0]
        assert (await service.get("/orders")).status == 429


OPAQUE = """
inner = app


async def app(scope, receive, send):
    await inner(scope, receive, send)
"""


async def test_own_fleetlimit_inside_an_opaque_app_has_one_limiter(tmp_path: Path) -> None:
    """The lifespan of an app that `serve` cannot see has the limiter of `serve`, too."""
    (tmp_path / "own.py").write_text(OWN_FLEETLIMIT + OPAQUE)
    policies(tmp_path, "/other")
    with ServeProcess("own:app", "--policies", "policies.yaml", folder=tmp_path) as service:
        await service.ready()
        assert [(await service.get("/orders")).status for _ in range(3)] == [200, 200, 429]
        assert await service.metric("fleetlimit_checks_total") == 6, "default, then orders"
        assert len(service.logged("store.not_shared")) == 1
        assert not [
            line for line in service.logged("route.unlimited") if line["route"] == "/orders"
        ]


@pytest.fixture(scope="module")
def bundled() -> Iterator[ServeProcess]:
    with ServeProcess(settings=DEBUG) as service:
        yield service


async def test_each_bundled_route_has_a_policy(bundled: ServeProcess) -> None:
    """Each route of the example app has another policy of the bundled file."""
    await bundled.ready()
    policies_by_route = {
        line["route"]: line["policies"] for line in bundled.logged("route.limited")
    }
    for route, policy in {
        "/exports": "exports",
        "/items/{item_id}": "items",
        "/stream": "stream",
        "/ws": "socket",
        "/whoami": "whoami",
        "unmatched": "default",
    }.items():
        assert policies_by_route[route] == [policy]
    assert not bundled.logged("route.unlimited")
    assert (await bundled.get("/items/7")).json == {"item_id": 7}
    export = await fetch(bundled.port, "/exports", method="POST")
    assert export.headers["ratelimit-policy"].startswith('"exports"')


async def test_whoami_returns_the_callers_identity(bundled: ServeProcess) -> None:
    """A caller without a credential is identified by its address."""
    await bundled.ready()
    seen = (await bundled.get("/whoami")).json
    assert (seen["principal"], seen["tier"], seen["client_address"]) == (None, None, "127.0.0.1")


async def test_streams_are_not_buffered(bundled: ServeProcess) -> None:
    """The first line arrives before the last is sent, and a fifth concurrent stream is rejected."""
    await bundled.ready()
    async with contextlib.AsyncExitStack() as stack:
        readers = []
        for _ in range(4):
            reader, writer = await send(bundled.port, "/stream?lines=5")
            stack.callback(writer.close)
            await reader.readuntil(b"line 0\n")
            readers.append(reader)
        assert (await bundled.get("/stream?lines=1")).status == 429
        for reader in readers:
            assert (await reader.read()).endswith(b"line 4\n\r\n0\r\n\r\n")

        async def is_admitted() -> bool:
            return (await bundled.get("/stream?lines=1")).status == 200

        await eventually_async(is_admitted)


async def test_websockets_are_counted_by_handshake(bundled: ServeProcess) -> None:
    """Messages are echoed; the handshake above the limit gets a 429 with problem details."""
    await bundled.ready()
    url = f"ws://127.0.0.1:{bundled.port}/ws"
    for _ in range(30):
        async with connect(url) as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
    with pytest.raises(InvalidStatus) as rejected:
        async with connect(url):
            pass
    response = rejected.value.response
    assert response.status_code == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert int(response.headers["retry-after"]) >= 1

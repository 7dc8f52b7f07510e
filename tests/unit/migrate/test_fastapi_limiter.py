"""Translation of fastapi-limiter in both of its forms, and the behaviour of the app after it."""

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fleetlimit.migrate.result import Migration

LIFESPAN = """\
import contextlib
import redis.asyncio as redis
from fastapi import Depends, FastAPI, Request
from fastapi_limiter import FastAPILimiter
from fastapi_limiter.depends import RateLimiter, WebSocketRateLimiter

async def user_of(request: Request) -> str:
    user = request.headers.get("X-User", "none")
    return user.lower()

@contextlib.asynccontextmanager
async def lifespan(_: FastAPI):
    connection = redis.from_url("memory://")
    await FastAPILimiter.init(connection{init})
    yield
    await FastAPILimiter.close()

app = FastAPI(lifespan=lifespan)
"""
Translate = Callable[..., Migration]
Load = Callable[[Migration], Any]


def app_with(routes: str, init: str = "") -> str:
    # No server runs here: redis-py parses the URL only when the app connects.
    return (
        LIFESPAN.replace("{init}", init).replace(
            'redis.from_url("memory://")', 'redis.from_url(url="memory://")'
        )
        + routes
    )


def after(migration: Migration) -> str:
    return migration.changed[0].after


def without_connection(text: str) -> str:
    return text.replace('    connection = redis.from_url(url="memory://")\n', "")


def statuses(client: TestClient, path: str, count: int, user: str = "ann") -> list[int]:
    return [client.get(path, headers={"X-User": user}).status_code for _ in range(count)]


def by_hand(migration: Migration) -> str:
    return "\n".join(f"{each.line}: {each.text}" for each in migration.by_hand)


def test_dependencies_and_lifespan(translated: Translate, edited: Load) -> None:
    """Every place of a dependency is translated, and the lifespan opens the limiter."""
    migration = translated(
        app_with(
            "from typing import Annotated\nfrom fastapi import APIRouter\n"
            "per_day = RateLimiter(times=1, hours=24)\n"
            '@app.get("/a", dependencies=[Depends(RateLimiter(times=2, seconds=86400))])\n'
            "def a() -> None: ...\n"
            '@app.get("/b", dependencies=[Depends(per_day)])\ndef b() -> None: ...\n'
            '@app.get("/c")\n'
            "def c(_: Annotated[object, Depends(RateLimiter(3, hours=24))]) -> None: ...\n"
            "router = APIRouter(dependencies=[Depends(RateLimiter(hours=24))])\n"
            '@router.get("/d")\ndef d() -> None: ...\n'
            '@router.get("/e")\ndef e() -> None: ...\n'
            "app.include_router(router)\n"
        )
    )
    assert migration.is_complete, by_hand(migration)
    assert 'async with Fleetlimit(store="memory://")(_):' in after(migration)
    assert "fastapi_limiter" not in after(migration)
    migration.changed[0].after = without_connection(after(migration))
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/a", 3) == [200, 200, 429]
        assert statuses(client, "/b", 2) == [200, 429]
        assert statuses(client, "/c", 4) == [200, 200, 200, 429]
        assert statuses(client, "/d", 2) == [200, 429]
        assert statuses(client, "/e", 2) == [200, 429]


def test_identifiers_are_keys(translated: Translate, edited: Load) -> None:
    """The identifier of the whole app, and that of one limit."""
    migration = translated(
        app_with(
            '@app.get("/a", dependencies=[Depends(RateLimiter(times=1, hours=24))])\n'
            "def a() -> None: ...\n"
            "async def everybody(request: Request) -> str:\n    return 'all'\n"
            '@app.get("/b", dependencies=[Depends(RateLimiter(hours=24, identifier=everybody))])\n'
            "def b() -> None: ...\n",
            ", identifier=user_of",
        )
    )
    assert migration.is_complete, by_hand(migration)
    assert 'RateLimit("1/day", key=user_of)' in after(migration)
    assert 'RateLimit("1/day", key="global")' in after(migration)
    migration.changed[0].after = without_connection(after(migration))
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/a", 2, "ann") == [200, 429]
        assert statuses(client, "/a", 2, "bob") == [200, 429]
        assert statuses(client, "/b", 1, "ann") == [200]
        assert statuses(client, "/b", 1, "bob") == [429]


def test_milliseconds_keep_the_rate_and_the_burst(translated: Translate) -> None:
    """A rate has whole seconds."""
    migration = translated(
        app_with('app.get("/a", dependencies=[Depends(RateLimiter(1, milliseconds=500))])(len)\n')
    )
    assert 'RateLimit("2/second", burst=1)' in after(migration)
    assert any("whole seconds" in each.text for each in migration.differences)


@pytest.mark.parametrize(
    ("limiter", "expected"),
    [
        ("limiter=Limiter(Rate(2, Duration.DAY))", '"2/day"'),
        ("Limiter(Rate(2, Duration.SECOND * 5))", '"2 per 5 seconds"'),
        ("limiter=Limiter([Rate(limit=2, interval=3600000)])", '"2/hour"'),
        ("limiter=shared", '"7/minute"'),
    ],
)
def test_limits_of_pyrate_limiter(translated: Translate, limiter: str, expected: str) -> None:
    """From version 0.2 on a limit has a limiter of pyrate-limiter."""
    migration = translated(
        "from fastapi import Depends, FastAPI\nfrom fastapi_limiter.depends import RateLimiter\n"
        "from pyrate_limiter import Duration, Limiter, Rate\n"
        "rate = Rate(7, Duration.MINUTE)\nshared = Limiter(rate)\n"
        f'app = FastAPI()\n@app.get("/a", dependencies=[Depends(RateLimiter({limiter}))])\n'
        "def a() -> None: ...\n"
    )
    assert f"Depends(RateLimit({expected}))" in after(migration)


@pytest.mark.parametrize(
    ("routes", "init", "message"),
    [
        ("x = RateLimiter(times=N, seconds=5)\n", "", "the numbers are no constants"),
        ("x = RateLimiter(times=5)\n", "", "allow nothing"),
        ("x = RateLimiter(**options)\n", "", "the numbers are no constants"),
        ("x = RateLimiter(seconds=5, callback=cb)\n", "", "callback: write"),
        ("", ", http_callback=cb", "http_callback: write"),
        ("", ", ws_callback=cb", "ws_callback: write"),
        ("", ', prefix="shop"', "FLEETLIMIT_KEY_PREFIX"),
        ("x = WebSocketRateLimiter(times=3, seconds=60)\n", "", "limits: [{rate: 3/minute}]"),
        ("x = RateLimiter\n", "", "fastapi_limiter.depends.RateLimiter has no counterpart"),
    ],
)
def test_what_has_no_translation_is_listed(
    translated: Translate, routes: str, init: str, message: str
) -> None:
    """It is named with its place."""
    migration = translated(app_with(routes, init))
    assert message in by_hand(migration)
    assert not migration.unread


def test_event_handler_and_unknown_connection_are_listed(translated: Translate) -> None:
    """An app with handlers of events needs a lifespan, which reading cannot write."""
    migration = translated(
        "from fastapi import FastAPI\nfrom fastapi_limiter import FastAPILimiter\n"
        "app = FastAPI()\n"
        '@app.on_event("startup")\nasync def start():\n'
        "    await FastAPILimiter.init(await connect())\n"
        '@app.on_event("shutdown")\nasync def stop():\n    await FastAPILimiter.close()\n'
    )
    assert "an app with a lifespan ignores on_event" in by_hand(migration)
    assert "the URL of the connection is not known" in by_hand(migration)
    assert "pass" in after(migration)


def test_skipped_routes_are_listed(translated: Translate) -> None:
    """`skip_limiter` exempts a route from the limit of its router."""
    migration = translated(
        "from fastapi_limiter.decorators import skip_limiter\n"
        "@skip_limiter\nasync def a() -> None: ...\n"
    )
    assert "skip_limiter: write" in by_hand(migration)
    assert after(migration) == "async def a() -> None: ...\n"

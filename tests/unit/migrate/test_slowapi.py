"""Translation of slowapi, and the behaviour of the app after it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fleetlimit.migrate.result import Migration
from fleetlimit.policy_file import load

SETUP = """\
from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from slowapi.util import get_remote_address

limiter = Limiter(key_func=get_remote_address{arguments})
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)
app.add_middleware(SlowAPIMiddleware)

"""
TWO_METHODS = '@app.api_route("/a", methods=["GET", "PUT"])\n'
Translate = Callable[..., Migration]
Load = Callable[[Migration], Any]


def app_with(routes: str, arguments: str = "") -> str:
    return SETUP.replace("{arguments}", arguments) + routes


def after(migration: Migration, name: str = "main") -> str:
    return next(each.after for each in migration.changed if each.path.stem == name)


def statuses(client: TestClient, path: str, count: int, **headers: str) -> list[int]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.get(path, headers=named).status_code for _ in range(count)]


def by_hand(migration: Migration) -> str:
    return "\n".join(f"{each.line}: {each.text}" for each in migration.by_hand)


def test_decorators_become_dependencies_that_limit_alike(
    translated: Translate, edited: Load
) -> None:
    """Each route has its own limits, and several rates of one decorator all apply."""
    migration = translated(
        app_with(
            '@app.get("/one")\n@limiter.limit("2/minute")\n'
            "def one(request: Request) -> None: ...\n\n\n"
            '@app.get("/two")\n@limiter.limit("9/minute;3 per 1 day")\n'
            "async def two(request: Request) -> None: ...\n\n\n"
            '@app.get("/free")\ndef free() -> None: ...\n'
        )
    )
    assert migration.is_complete
    assert not migration.policies
    assert "slowapi" not in after(migration)
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/one", 3) == [200, 200, 429]
        assert statuses(client, "/two", 4) == [200, 200, 200, 429]
        assert statuses(client, "/free", 20) == [200] * 20


def test_default_limits_become_the_default_policy(translated: Translate, edited: Load) -> None:
    """Routes with a limit of their own do not have it, unless they say so; exempt ones neither."""
    migration = translated(
        app_with(
            '@app.get("/own")\n@limiter.limit("5/day")\ndef own(request: Request) -> None: ...\n'
            '@app.get("/both")\n@limiter.limit("5/day", override_defaults=False)\n'
            "def both(request: Request) -> None: ...\n"
            '@app.get("/exempt")\n@limiter.exempt\ndef exempt() -> None: ...\n'
            '@app.get("/plain/{n}")\ndef plain(n: int) -> None: ...\n',
            ', default_limits=["2/day"]',
        )
    )
    assert migration.is_complete, migration.by_hand
    assert [each.name for each in migration.policies] == ["default"]
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/own", 6) == [200] * 5 + [429]
        assert statuses(client, "/both", 3) == [200, 200, 429]
        assert statuses(client, "/exempt", 9) == [200] * 9
        assert statuses(client, "/plain/1", 3) == [200, 200, 429]


def test_application_limits_are_shared_by_all_routes(translated: Translate, edited: Load) -> None:
    """They apply with the default limits, which each route has for itself."""
    migration = translated(
        app_with(
            '@app.get("/a")\ndef a() -> None: ...\n@app.get("/b")\ndef b() -> None: ...\n'
            '@app.get("/exempt")\n@limiter.exempt\ndef exempt() -> None: ...\n',
            ', default_limits=["2/day"], application_limits=["3/day"]',
        )
    )
    assert migration.is_complete
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/a", 3) == [200, 200, 429]
        assert statuses(client, "/b", 2) == [200, 429]
        assert statuses(client, "/exempt", 5) == [200] * 5


def test_shared_limits_share_a_bucket(translated: Translate, edited: Load) -> None:
    """Two routes with one scope share a bucket; another rate of the scope has its own."""
    route = '@app.get("/{name}")\n@limiter.shared_limit("{rate}", scope="the scope")\n'
    route += "def {name}(request: Request) -> None: ...\n"
    migration = translated(
        app_with(
            "".join(
                route.replace("{name}", name).replace("{rate}", rate)
                for name, rate in (("a", "3/day"), ("b", "3/day"), ("c", "1/day"))
            )
        )
    )
    assert 'name="the-scope"' in after(migration)
    assert 'name="the-scope-2"' in after(migration)
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/a", 2) == [200, 200]
        assert statuses(client, "/b", 2) == [200, 429]
        assert statuses(client, "/c", 2) == [200, 429]


def test_key_functions_are_kept_or_become_parts_of_a_key(
    translated: Translate, edited: Load
) -> None:
    """A header is recognized; any other function is the key, with or without an argument."""
    migration = translated(
        app_with(
            "def user_of(request: Request) -> str:\n"
            '    user = request.headers.get("X-User", "none")\n    return user.lower()\n\n\n'
            "def one_bucket() -> str:\n    bucket = 'all'\n    return bucket\n\n\n"
            '@app.get("/a")\n'
            '@limiter.limit("1/day", key_func=lambda request: request.headers["X-Key"])\n'
            "def a(request: Request) -> None: ...\n"
            '@app.get("/b")\n@limiter.limit("1/day", key_func=user_of)\n'
            "def b(request: Request) -> None: ...\n"
            '@app.get("/c")\n@limiter.limit("1/day", key_func=one_bucket)\n'
            "def c(request: Request) -> None: ...\n"
        )
    )
    assert migration.is_complete
    assert 'RateLimit("1/day", key="header:X-Key")' in after(migration)
    assert 'RateLimit("1/day", key=user_of)' in after(migration)
    with TestClient(edited(migration).app) as client:
        for path, header in (("/a", "x_key"), ("/b", "x_user")):
            assert statuses(client, path, 2, **{header: "ann"}) == [200, 429]
            assert statuses(client, path, 2, **{header: "bob"}) == [200, 429]
        assert statuses(client, "/c", 2, x_user="ann") == [200, 429]
        assert statuses(client, "/c", 1, x_user="bob") == [429]


def test_cost_and_strategy(translated: Translate, edited: Load) -> None:
    """A cost stays, and a strategy becomes the algorithm that counts alike."""
    migration = translated(
        app_with(
            '@app.get("/a")\n@limiter.limit("5/day", cost=2)\ndef a(request: Request): ...\n',
            ', strategy="moving-window"',
        )
    )
    assert 'RateLimit("5/day", algorithm="sliding_log", cost=2)' in after(migration)
    assert not any("fixed windows" in each.text for each in migration.differences)
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/a", 3) == [200, 200, 429]


def test_algorithm_option_keeps_fixed_windows(translated: Translate) -> None:
    """Without a strategy slowapi counts in fixed windows; `--algorithm` keeps them."""
    text = app_with(
        '@app.get("/a")\n@limiter.limit("5/day")\ndef a(request: Request): ...\n',
        ', default_limits=["9/day"]',
    )
    migration = translated(text, algorithm="fixed_window")
    assert 'RateLimit("5/day", algorithm="fixed_window")' in after(migration)
    assert "{rate: 9/day, algorithm: fixed_window}" in migration.policy_file()


def test_limiter_in_another_module_and_routers_with_prefixes(
    translated: Translate, edited: Load
) -> None:
    """Names are followed through imports, prefixes are added, and unused imports are removed."""
    migration = translated(
        limits="from slowapi import Limiter\nfrom starlette.requests import Request\n\n\n"
        "def key_of(request: Request) -> str:\n"
        '    return request.headers.get("X-Key", "?").lower()\n\n\n'
        "limiter = Limiter(key_func=key_of)\n",
        items="from fastapi import APIRouter, Request\n\nfrom .limits import limiter\n\n"
        'router = APIRouter(prefix="/items")\n\n\n'
        '@router.get("/{item_id}")\n@limiter.limit("2/day")\n'
        "def get_item(request: Request, item_id: int) -> None: ...\n",
        main="from fastapi import FastAPI\nfrom slowapi import _rate_limit_exceeded_handler\n"
        "from slowapi.errors import RateLimitExceeded\n\n"
        "from . import items\nfrom .limits import limiter\n\n"
        "def build() -> FastAPI:\n    app = FastAPI()\n    app.state.limiter = limiter\n"
        "    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)\n"
        '    app.include_router(items.router, prefix="/v1")\n    return app\n\n\napp = build()\n',
    )
    assert migration.is_complete, by_hand(migration)
    assert "from .limits import key_of" in after(migration, "items")
    assert "limiter" not in after(migration, "items")
    assert "lifespan=limiter" in after(migration)
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/v1/items/1", 3, x_key="a") == [200, 200, 429]
        assert statuses(client, "/v1/items/1", 1, x_key="b") == [200]


def test_templates_of_exemptions_have_all_prefixes(translated: Translate) -> None:
    """A router that is included twice has two templates."""
    migration = translated(
        app_with(
            "from fastapi import APIRouter\n"
            'inner = APIRouter(prefix="/inner")\nouter = APIRouter(prefix="/outer")\n'
            '@inner.get("")\n@limiter.exempt\ndef free() -> None: ...\n'
            'outer.include_router(inner, prefix="/x")\n'
            'app.include_router(outer)\napp.include_router(outer, prefix="/v2")\n',
            ', default_limits=["9/day"]',
        )
    )
    assert list(migration.policies[0].exempt_routes) == ["/outer/x/inner", "/v2/outer/x/inner"]


def test_route_that_shares_its_path_is_not_exempt(translated: Translate) -> None:
    """An exemption is by path: another method without a decorator would lose the limit."""
    migration = translated(
        app_with(
            '@app.post("/a")\n@limiter.limit("5/day")\ndef a(request: Request) -> None: ...\n'
            '@app.get("/a")\ndef get_a() -> None: ...\n',
            ', default_limits=["9/day"]',
        )
    )
    assert list(migration.policies[0].exempt_routes) == []
    assert any("has a further route" in each.text for each in migration.differences)


def test_existing_dependencies_and_lifespan_are_kept(translated: Translate, edited: Load) -> None:
    """Limits are added to the dependencies that a route has, and the lifespan is wrapped."""
    migration = translated(
        "import contextlib\nfrom fastapi import Depends, FastAPI, Request\n"
        "from slowapi import Limiter\nfrom slowapi.util import get_remote_address\n"
        "events: list[str] = []\nlimiter = Limiter(get_remote_address)\n"
        "def first() -> None:\n    events.append('first')\n"
        "@contextlib.asynccontextmanager\nasync def lifespan(app):\n"
        "    events.append('start')\n    try:\n        yield\n    finally:\n"
        "        events.append('end')\n"
        "app = FastAPI(lifespan=lifespan)\napp.state.limiter = limiter\n"
        '@app.get("/a", dependencies=[Depends(first)],\n)\n@limiter.limit("1/day")\n'
        "def a(request: Request) -> None: ...\n"
        "more = [Depends(first)]\n"
        '@app.get("/b", dependencies=more)\n@limiter.limit("1/day")\n'
        "def b(request: Request) -> None: ...\n"
        '@app.get("/c", dependencies=[])\n@limiter.limit("1/day")\n'
        "def c(request: Request) -> None: ...\n"
    )
    assert migration.is_complete
    module = edited(migration)
    with TestClient(module.app) as client:
        for path in ("/a", "/b", "/c"):
            assert statuses(client, path, 2) == [200, 429]
    assert module.events.count("first") >= 2
    assert (module.events[0], module.events[-1]) == ("start", "end")


def test_own_exception_handler_stays(translated: Translate, edited: Load) -> None:
    """The handler is called for the exception of Fleetlimit, by the middleware, too."""
    text = app_with(
        "from fastapi.responses import JSONResponse\n"
        "@app.exception_handler(RateLimitExceeded)\n"
        "def handle(request: Request, exc: RateLimitExceeded) -> JSONResponse:\n"
        "    return JSONResponse({'own': exc.detail}, status_code=429)\n"
        '@app.get("/a")\n@limiter.limit("1/day")\ndef a(request: Request) -> None: ...\n'
        '@app.get("/b")\ndef b() -> None: ...\n',
        ', default_limits=["2/day"]',
    ).replace("app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)\n", "")
    migration = translated(text)
    assert "use_exception_handlers=True" in after(migration)
    assert any("the handler stays" in each.text for each in migration.differences)
    with TestClient(edited(migration).app) as client:
        for path, admitted in (("/a", 1), ("/b", 2)):
            assert statuses(client, path, admitted + 1)[-1] == 429
            assert "own" in client.get(path).json()


@pytest.mark.parametrize(
    ("route", "arguments", "message"),
    [
        ('@app.get("/a")\n@limiter.limit(rate_of)\n', "", "a limit from a function"),
        ('@app.get("/a")\n@limiter.limit(lambda: "1/day")\n', "", "a limit from a function"),
        ('@app.get("/a")\n@limiter.limit(settings.rate)\n', "", "the rate is no constant"),
        ('@app.get("/a")\n@limiter.limit("five a day")\n', "", "'five a day' is not a rate"),
        ('@app.get("/a")\n@limiter.limit("0/day")\n', "", "'0/day' is not a rate, or allows"),
        ('@app.get("/a")\n@limiter.limit\n', "", "a decorator without arguments"),
        ('@limiter.limit("1/day")\n', "", "has no decorator of FastAPI"),
        ('@app.route("/a")\n@limiter.limit("1/day")\n', "", "has no decorator of FastAPI"),
        ('@app.get("/a")\n@limiter.limit("1/day", error_message="no")\n', "", "error_message"),
        ('@app.get("/a")\n@limiter.limit("1/day", **options)\n', "", "arguments from * or **"),
        (
            f'{TWO_METHODS}@limiter.limit("1/day", methods=["GET"])\n',
            "",
            "applies to all methods",
        ),
        (
            f'{TWO_METHODS}@limiter.limit("1/day", per_method=True)\n',
            "",
            "share a bucket",
        ),
        ('@app.get("/a")\n@limiter.shared_limit("1/day", scope=rate_of)\n', "", "the scope is no"),
        ("@app.get(PATH)\n@limiter.exempt\n", ', default_limits=["1/day"]', "path of this route"),
        ("", ", default_limits=[rate_of]", "no constant rate"),
        ("", ", default_limits=DEFAULTS", "is no list of constants"),
        ("", ", headers_enabled=True", "FLEETLIMIT_HEADERS=x-ratelimit-epoch"),
        ("", ", swallow_errors=True", "on_store_error: allow"),
        ("", ', in_memory_fallback=["1/day"]', "on_store_error: local"),
        ("", ", enabled=TESTING", "enabled"),
        ("", ', storage_uri="memcached://host"', "memcached is no store"),
        ("", ", **settings", "arguments from **"),
    ],
)
def test_what_has_no_translation_is_listed(
    translated: Translate, route: str, arguments: str, message: str
) -> None:
    """It is named with its place, and its decorator stays if its limit would be lost."""
    routes = f"def rate_of() -> str: ...\n{route}def a(request: Request) -> None: ...\n"
    migration = translated(app_with(routes, arguments))
    assert message in by_hand(migration)
    assert not migration.is_complete
    assert not migration.unread
    assert "by hand: what has no translation" in migration.report("policies.yaml")


def test_key_function_of_default_limits_becomes_a_resolver_by_hand(translated: Translate) -> None:
    """A policy file has no functions."""
    text = app_with(
        "def key_of(request): return request.state.user\n", ', default_limits=["1/day"]'
    )
    migration = translated(
        text.replace("get_remote_address{arguments}", "").replace(
            "key_func=get_remote_address", "key_func=key_of"
        )
    )
    assert "Fleetlimit(resolver=...)" in by_hand(migration)


def test_limits_that_slowapi_did_not_enforce_are_listed(translated: Translate) -> None:
    """A decorator above that of the route had no effect."""
    migration = translated(
        app_with('@limiter.limit("1/day")\n@app.get("/a")\ndef a(request: Request) -> None: ...\n')
    )
    assert any("did not enforce this limit" in each.text for each in migration.differences)
    assert 'RateLimit("1/day")' in after(migration)


@pytest.mark.parametrize(
    "use",
    [
        "limiter.reset()",
        "limiter.enabled = False",
        "x = [limiter.limit('1/day')]",
        "y = get_remote_address",
        "def h(request):\n    return request.state.view_rate_limit",
        "def g():\n    from slowapi.util import get_ipaddr\n    return get_ipaddr",
        "from slowapi import *",
    ],
)
def test_other_uses_of_slowapi_are_listed(translated: Translate, use: str) -> None:
    """What the edited code would still use of slowapi is listed."""
    migration = translated(app_with(f"{use}\n"))
    assert migration.by_hand
    assert not migration.unread


def test_limiter_that_is_an_attribute(translated: Translate, edited: Load) -> None:
    """A limiter of a class or an object is recognized by its name."""
    text = app_with("").replace(
        "limiter = Limiter(key_func=get_remote_address)",
        "class Limits:\n    limiter = Limiter(key_func=get_remote_address)\n\n\nlimits = Limits()",
    )
    text = text.replace("app.state.limiter = limiter", "app.state.limiter = Limits.limiter")
    text += '@app.get("/a")\n@limits.limiter.limit("1/day")\ndef a(request: Request): ...\n'
    migration = translated(text)
    assert migration.is_complete, by_hand(migration)
    with TestClient(edited(migration).app) as client:
        assert statuses(client, "/a", 2) == [200, 429]


def test_decorator_of_an_unknown_limiter_is_listed(translated: Translate) -> None:
    """A limiter that no file creates, or that a function receives, may be one of slowapi."""
    migration = translated(
        "from shop.limits import limiter\n\n\n"
        '@app.get("/a")\n@limiter.limit("1/day")\ndef a(request): ...\n\n\n'
        '@app.get("/b")\n@limiter.exempt\ndef b(): ...\n'
    )
    assert [each.line for each in migration.by_hand] == [5, 10]
    assert "limiter is no limiter of the files that were read" in by_hand(migration)


def test_second_limiter_with_default_limits_is_listed(translated: Translate, edited: Load) -> None:
    """Its policy needs a name and a match, and the policy file stays valid."""
    text = "other = Limiter(key_func=get_remote_address, default_limits=['5/day'])\n"
    migration = translated(app_with(text, ', default_limits=["9/day"]'))
    assert "a further limiter with limits for all routes" in by_hand(migration)
    edited(migration)
    assert len(load(Path("policies.yaml")).policy_set.policies) == 1


def test_limiter_that_no_app_has_is_listed(translated: Translate) -> None:
    """Without the statement it is not known which app starts the limiter."""
    text = app_with("").replace("app.state.limiter = limiter\n", "")
    assert "write FastAPI(lifespan=limiter)" in by_hand(translated(text))


def test_middleware_that_is_missing_is_listed(translated: Translate) -> None:
    """The library applies its default limits through its middleware only."""
    text = app_with("", ', default_limits=["1/day"]')
    migration = translated(text.replace("app.add_middleware(SlowAPIMiddleware)\n", ""))
    assert "app.add_middleware(RateLimitMiddleware)" in by_hand(migration)


def test_policy_file_is_valid(translated: Translate, edited: Load) -> None:
    """The policies are read by Fleetlimit, with templates that need quotes."""
    migration = translated(
        app_with(
            '@app.get("/a/{name:path}")\n@limiter.exempt\ndef a(name: str) -> None: ...\n',
            ', default_limits=["2000/month", "1 per 2 hours"], application_limits=["9/year"]',
        )
    )
    edited(migration)
    policies = load(Path("policies.yaml")).policy_set.policies
    assert [each.name for each in policies] == ["application", "each-route"]


def test_address_of_one_route_stays_an_address(translated: Translate) -> None:
    """A login that counts by address is not counted by caller because the app has callers."""
    text = app_with(
        "def user_of(request: Request) -> str:\n    return request.state.user\n\n\n"
        '@app.post("/login")\n@limiter.limit("1/day", key_func=get_remote_address)\n'
        "def login(request: Request) -> None: ...\n"
    )
    by_user = text.replace("Limiter(key_func=get_remote_address", "Limiter(key_func=user_of")
    assert 'RateLimit("1/day", key="client_address")' in after(translated(by_user))
    assert 'RateLimit("1/day")' in after(translated(text))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ('search = limiter.shared_limit("4/minute", scope="search")', 'name="search")`, and dep'),
        ('one = limiter.limit("4/minute")', "dependencies=[Depends(exports)]"),
        ("limiter.reset()", "the fixture make_fleetlimit"),
        ("limiter.enabled = False", "fleetlimit.testing.unlimited()"),
        ("limiter.slowapi_startup()", "Fleetlimit has check, peek and reset"),
    ],
)
def test_other_uses_of_the_limiter_say_what_to_write(
    translated: Translate, use: str, message: str
) -> None:
    """An assigned decorator and a reset in a test have their counterparts."""
    assert message in by_hand(translated(app_with(f"{use}\n")))


def test_limit_of_another_file_names_the_function(translated: Translate) -> None:
    """An imported limit may be a function."""
    text = app_with(
        'from plans import limit_of\n\n\n@app.get("/a")\n@limiter.limit(limit_of)\n'
        "def a(request: Request) -> None: ...\n"
    )
    assert 'RateLimit(function, default="5/minute")' in by_hand(translated(text))


def test_other_use_of_the_address_function_says_what_to_write(translated: Translate) -> None:
    """A key function for users and addresses becomes a resolver."""
    text = app_with(
        "def key_of(request): return request.state.user or get_remote_address(request)\n"
    )
    assert "a resolver, Fleetlimit(resolver=...), returns None" in by_hand(translated(text))

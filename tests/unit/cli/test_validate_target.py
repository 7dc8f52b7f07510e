"""Command `policies validate --target`: the routes of an app compared with a policy file."""

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleetlimit import cli
from fleetlimit.errors import ConfigError

APP = """\
from fastapi import APIRouter, Depends, FastAPI
from starlette.staticfiles import StaticFiles
from fleetlimit import Fleetlimit, PolicyLimit, RateLimit, RateLimitMiddleware

app = FastAPI()
router = APIRouter(prefix="/v1")


@router.get("/items/{item_id}")
def get_item(item_id: int) -> None: ...


@router.post("/items", dependencies=[Depends(RateLimit("5/minute"))])
async def create_item() -> None: ...


@router.post("/exports", dependencies=[Depends(PolicyLimit("exports"))])
async def create_export() -> None: ...


@app.websocket("/chat")
async def chat() -> None: ...


app.include_router(router)
"""
LIMITS = "limits: [{rate: 5/minute}]"
POLICIES = f"""\
version: 1
policies:
  - {{name: exports, {LIMITS}}}
  - {{name: items, match: {{routes: ['/v1/items/{{item_id}}']}}, {LIMITS}}}
  - {{name: chat, match: {{methods: [WEBSOCKET], routes: [/chat]}}, {LIMITS}}}
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes app and policies, and returns the result of the command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    count = 0

    def validate(
        code: str = APP, policies: str = POLICIES, *options: str, name: str = "app"
    ) -> tuple[int, str]:
        nonlocal count
        count += 1
        module = f"validated_{tmp_path.name}_{count}".replace("-", "_")
        (tmp_path / f"{module}.py").write_text(code)
        (tmp_path / "policies.yaml").write_text(policies)
        arguments = ["policies", "validate", "policies.yaml", "--target", f"{module}:{name}"]
        result = CliRunner().invoke(cli.app, [*arguments, *options])
        sys.modules.pop(module, None)
        if isinstance(result.exception, ConfigError):
            return 1, result.stderr + str(result.exception)
        return result.exit_code, result.stderr

    return validate


def test_app_whose_routes_all_have_a_limit(app: Any) -> None:
    """Without a finding the command prints the number of routes, and `--strict` has no effect."""
    for options in ((), ("--strict",)):
        status, err = app(APP, POLICIES, *options)
        assert status == 0
        assert "warning" not in err
        assert "4 routes, 4 with a limit" in err
        assert "policies.yaml: 3 policies, no error" in err


def test_route_without_a_limit_is_a_warning_and_with_strict_an_error(app: Any) -> None:
    """The warning names the route with its prefix, WebSocket routes included."""
    policies = f"version: 1\npolicies:\n  - {{name: exports, {LIMITS}}}\n"
    status, err = app(APP, policies)
    assert status == 0
    assert "warning: route GET /v1/items/{item_id} has no limit: write Depends(RateLimit" in err
    assert "warning: route WEBSOCKET /chat has no limit" in err
    assert "POST /v1/items " not in err
    status, err = app(APP, policies, "--strict")
    assert status == 1
    assert "2 warnings, which --strict does not allow" in err


def test_policy_that_is_off_leaves_its_route_without_a_limit(app: Any) -> None:
    """A policy with `mode: off` does not limit its routes."""
    off = POLICIES.replace("name: items,", "name: items, mode: 'off',")
    assert "route GET /v1/items/{item_id} has no limit" in app(APP, off)[1]


def test_route_with_one_method_that_has_no_limit(app: Any) -> None:
    """A route of two methods needs a limit for both."""
    code = APP.replace(
        '@router.get("/items/{item_id}")',
        '@router.api_route("/items/{item_id}", methods=["GET", "DELETE"])',
    )
    policies = POLICIES.replace(
        "match: {routes: ['/v1/items", "match: {methods: [GET], routes: ['/v1/items"
    )
    assert "route DELETE,GET /v1/items/{item_id} has no limit" in app(code, policies)[1]


def test_policy_that_only_checks_by_hand_name_is_declared(app: Any) -> None:
    """`--by-hand messages` says so, and a name that is no such policy is an error."""
    policies = POLICIES + f"  - {{name: messages, {LIMITS}}}\n"
    status, err = app(APP, policies, "--strict")
    assert status == 1
    assert "it needs neither (policies validate --by-hand messages)" in err
    assert app(APP, policies, "--strict", "--by-hand", "messages")[0] == 0
    status, err = app(APP, POLICIES, "--by-hand", "mesages", "--by-hand", "chat")
    assert status == 1
    assert "--by-hand mesages: there is no policy of that name" in err
    assert "--by-hand chat: its match applies it: leave the option out" in err


def test_estimates_of_a_token_bucket_are_a_warning(app: Any) -> None:
    """The algorithm in its place is named; with it there is no warning."""
    tokens = (
        "  - {name: tokens, match: {methods: [POST], routes: [/v1/items]}, "
        "limits: [{rate: 1000/minute}], cost: {usage: openai}}\n"
    )
    status, err = app(APP, POLICIES + tokens)
    assert status == 0
    assert "warning: policy tokens spends estimates from a token bucket" in err
    status, err = app(
        APP, POLICIES + tokens.replace("1000/minute", "1000/minute, algorithm: sliding_window")
    )
    assert "spends estimates" not in err


def test_default_policy_limits_every_route(app: Any) -> None:
    """With the policy `default` no route is without a limit."""
    policies = f"version: 1\npolicies:\n  - {{name: exports, {LIMITS}}}\n"
    policies += f"  - {{name: default, {LIMITS}}}\n"
    assert app(APP, policies, "--strict")[0] == 0


def test_code_that_names_policies_that_do_not_exist(app: Any) -> None:
    """Each unknown policy is an error with its route; all of them are listed."""
    code = APP.replace('RateLimit("5/minute")', 'PolicyLimit("itms")')
    code = code.replace('PolicyLimit("exports")', 'PolicyLimit("exprts")')
    status, err = app(code)
    assert status == 1
    assert "route POST /v1/items: " in err
    assert "'itms'" in err
    assert "route POST /v1/exports: " in err
    assert "'exprts'" in err


def test_limit_in_code_with_the_name_of_a_policy_of_the_file(app: Any) -> None:
    """Two different limits with one name are an error."""
    code = APP.replace('RateLimit("5/minute")', 'RateLimit("7/minute", name="items")')
    status, err = app(code)
    assert status == 1
    assert "two different limits are named 'items'" in err


def test_cost_that_a_policy_can_never_admit(app: Any) -> None:
    """A cost above the burst is an error; above that of one tier only, a warning."""
    code = APP.replace('PolicyLimit("exports")', 'PolicyLimit("exports", cost=6)')
    status, err = app(code)
    assert status == 1
    assert "can never pass policy exports" in err
    tiers = POLICIES.replace("name: exports,", "name: exports, tiers: {pro: [{rate: 9/minute}]},")
    status, err = app(code, tiers)
    assert status == 0
    assert "can never pass the limits of callers without a tier" in err


def test_several_findings_are_all_printed(app: Any) -> None:
    """An unknown policy does not hide a policy without a route."""
    code = APP.replace('PolicyLimit("exports")', 'PolicyLimit("exprts")')
    err = app(code, POLICIES.replace("/chat", "/chatt"))[1]
    assert "'exprts'" in err
    assert "policy chat applies to no route: did you mean /chat?" in err
    assert "warning: policy exports has no match and no route depends on it" in err


def test_mounted_apps_and_static_files_are_routes(app: Any) -> None:
    """Routes of a mounted app, and the files of a mount, need a limit, too."""
    code = APP + (
        "other = FastAPI()\n"
        "other.get('/reports')(lambda: None)\n"
        "app.mount('/other', other)\n"
        "app.mount('/static', StaticFiles(directory='.'))\n"
    )
    err = app(code)[1]
    warnings = [line for line in err.splitlines() if "warning" in line]
    assert len(warnings) == 2
    assert "route GET /other/reports has no limit" in err
    assert "route ANY /static/{path:path} has no limit" in err


def test_mounted_app_with_a_limiter_of_its_own_is_left_out(app: Any) -> None:
    """Its policies are in another file."""
    code = APP + (
        "other = FastAPI(lifespan=Fleetlimit())\n"
        "other.get('/reports', dependencies=[Depends(PolicyLimit('theirs'))])(lambda: None)\n"
        "app.mount('/other', other)\n"
    )
    status, err = app(code)
    assert (status, "warning" in err) == (0, False)


def test_app_with_a_limiter_and_without_the_middleware(app: Any) -> None:
    """Its policies with a match apply under `fleetlimit serve` only."""
    code = APP.replace("app = FastAPI()", "app = FastAPI(lifespan=Fleetlimit())")
    assert "write app.add_middleware(RateLimitMiddleware)" in app(code)[1]
    with_middleware = code + "app.add_middleware(RateLimitMiddleware)\n"
    assert "add_middleware" not in app(with_middleware)[1]


@pytest.mark.parametrize(
    "exempt", ["policies", "code"], ids=["exempt by a policy", "exempt by Fleetlimit(exempt=)"]
)
def test_exempt_route_is_not_a_route_without_a_limit(app: Any, exempt: str) -> None:
    """The exemption of a policy, and that of the whole app, are no warning with `--strict`."""
    code = APP + "app.get('/health')(lambda: None)\n"
    policies = POLICIES
    if exempt == "policies":
        policies += f"  - {{name: default, {LIMITS}, exempt: {{routes: [/health]}}}}\n"
    else:
        lifespan = "Fleetlimit(exempt=Exemption(routes=['/health']))"
        code = code.replace("app = FastAPI()", f"app = FastAPI(lifespan={lifespan})")
        code = code.replace("import Fleetlimit,", "import Exemption, Fleetlimit,")
        code += "app.add_middleware(RateLimitMiddleware)\n"
    assert "route GET /health has no limit" in app(code.replace("['/health']", "['/docs']"))[1]
    status, err = app(code, policies, "--strict")
    assert (status, "warning" in err) == (0, False), err


def test_tiers_of_a_resolver_are_not_known(app: Any) -> None:
    """The resolver of the app's `Fleetlimit` may name any tier."""
    policies = POLICIES.replace("name: items,", "name: items, tiers: {pro: [{rate: 9/minute}]},")
    assert "names tier pro, which no API key has" in app(APP, policies)[1]
    code = APP.replace(
        "app = FastAPI()",
        "async def resolve(connection): return None\n"
        "app = FastAPI(lifespan=Fleetlimit(resolver=resolve))",
    )
    assert "tier pro" not in app(code, policies)[1]


def test_app_inside_middleware_and_a_factory(app: Any) -> None:
    """The app is found behind the attribute `app`, and as the result of a factory."""
    code = APP + (
        "from starlette.middleware.cors import CORSMiddleware\n"
        "wrapped = CORSMiddleware(app)\n"
        "def create():\n    return app\n"
    )
    assert app(code, name="wrapped")[0] == 0
    assert app(code, POLICIES, "--factory", name="create")[0] == 0


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("import os\nos.environ['NO_SUCH_NAME']\n", "app", "failed with KeyError: 'NO_SUCH_NAME'"),
        ("1 +\n", "app", "failed with SyntaxError"),
        ("import no_such_module_of_mine\n", "app", "failed with ModuleNotFoundError"),
        ("app = 7\n", "app", "has no app named 'app'"),
        (APP, "none", "has no app named 'none'"),
    ],
)
def test_app_that_cannot_be_imported(app: Any, code: str, name: str, message: str) -> None:
    """The error has the reason, without a traceback."""
    status, err = app(code, name=name)
    assert status == 1
    assert message in err

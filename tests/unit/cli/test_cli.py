"""Command `fleetlimit`: output and exit status."""

import asyncio
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleetlimit import Fleetlimit, cli
from fleetlimit.bootstrap.explain import render
from fleetlimit.core.keys import KeyScheme
from fleetlimit.errors import ConfigError
from fleetlimit.server import runner
from fleetlimit.server.settings import EXAMPLE_POLICIES, ServerSettings
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.version import __version__

POLICIES = """\
version: 1
identity:
  api_keys: {file: keys.yaml}
policies:
  - {name: default, limits: [{rate: 3/day}]}
  - name: exports
    match: {methods: [POST], routes: [/exports]}
    key: [principal, route]
    limits: [{rate: 5/minute, burst: 9}, {concurrency: 4}]
    tiers: {pro: [{rate: 60/minute, algorithm: sliding_window}]}
    enforce_percent: 20
    on_store_error: deny
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # Far above what a busy machine needs.
    monkeypatch.setenv("FLEETLIMIT_STORE_TIMEOUT", "60")
    monkeypatch.setenv("FLEETLIMIT_STORE_CONNECT_TIMEOUT", "60")
    digest = hashlib.sha256(b"the key").hexdigest()
    keys = f"keys: [{{sha256: {digest}, principal: alice, tier: pro}}]\n"
    (tmp_path / "keys.yaml").write_text(keys)
    path = tmp_path / "policies.yaml"
    path.write_text(POLICIES)
    return str(path)


def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command in this process; return exit status, output and error output."""
    result = CliRunner().invoke(cli.app, arguments)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def explain(*arguments: str) -> Any:
    status, out, _ = run("policies", "explain", "--json", *arguments)
    assert status == 0
    return json.loads(out)


def test_validate_accepts_a_valid_file(file: str) -> None:
    """A valid file exits with 0."""
    assert run("policies", "validate", file) == (0, "", f"{file}: 2 policies, no error\n")


def test_validate_prints_each_error_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid file exits with 1; long lines are not wrapped."""
    path = tmp_path / f"{'long' * 20}.yaml"
    path.write_text("version: 1\npolicies:\n  - {name: '[red]'}\n  - {name: b, limits: 7}\n")
    monkeypatch.setattr(sys, "argv", ["fleetlimit", "policies", "validate", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{path}:3: ")
    assert lines[-1].startswith(f"{path}:4: ")


def test_validate_reads_the_files_that_the_policy_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file of API keys is an error."""
    path = tmp_path / "policies.yaml"
    path.write_text("version: 1\nidentity: {api_keys: {file: keys.yaml}}\npolicies: []\n")
    monkeypatch.setattr(sys, "argv", ["fleetlimit", "policies", "validate", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "keys.yaml: the file cannot be read" in capsys.readouterr().err


def test_serve_logs_why_it_does_not_start(tmp_path: Path) -> None:
    """The last line of the log is one event, which Kubernetes shows as the termination message."""
    path = tmp_path / "policies.yaml"
    path.write_text("version: 1\npolicies:\n  - {name: b, limits: 7}\n")
    status, out, _ = run("serve", "--port", "0", "--policies", str(path))
    event = json.loads(out.splitlines()[-1])
    assert status == 1
    assert (event["event"], event["level"]) == ("service.failed", "error")
    assert event["detail"].startswith(f"{path}:3: ")


def test_main_exits_with_0_after_success(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """A command without an error exits with 0."""
    monkeypatch.setattr(sys, "argv", ["fleetlimit", "policies", "validate", file])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


def test_schema_prints_the_json_schema() -> None:
    """The output is one JSON document."""
    status, out, _ = run("policies", "schema")
    assert status == 0
    assert json.loads(out)["title"] == "Fleetlimit policies"


def test_explain_uses_the_example_app_by_default() -> None:
    """Without options, `explain` uses the example app and its policies."""
    explanation = explain("GET", "/items/7")
    assert explanation["route"] == "GET /items/{item_id}"
    assert [policy["name"] for policy in explanation["policies"]] == ["items"]
    assert explain("WEBSOCKET", "/ws")["policies"][0]["name"] == "socket"


def test_explain_routes_below_the_root_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path with and without the app's `root_path` has the route that a request has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "rooted_app.py").write_text(
        "from fastapi import FastAPI\n"
        "def create_app():\n"
        "    app = FastAPI()\n"
        "    app.root_path = '/api'\n"  # newer versions of FastAPI deprecate the argument
        "    app.add_api_route('/items/{item_id}', lambda: None)\n"
        "    return app\n"
    )
    for path in ("/items/7", "/api/items/7"):
        explanation = explain("GET", path, "--target", "rooted_app:create_app", "--factory")
        assert explanation["route"] == "GET /items/{item_id}"


def test_explain_uses_the_functions_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The resolver, the callers' limits and the exemption of the app's `Fleetlimit` apply."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "resolving_app.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from fastapi import FastAPI\n"
        "from fleetlimit import Exemption, Fleetlimit, Principal\n"
        "async def resolve(request):\n"
        "    name = request.headers.get('x-user')\n"
        "    return Principal(name, 'staff' if name == 'root' else 'pro') if name else None\n"
        "limits = Fleetlimit(\n"
        "    resolver=resolve,\n"
        "    limits=lambda principal, policy: '77/minute',\n"
        "    exempt=Exemption(tiers=['staff']),\n"
        ")\n"
        "@asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    async with limits(app):\n"
        "        yield\n"
        "def create_app():\n"
        "    app = FastAPI(lifespan=lifespan)\n"
        "    app.get('/items')(lambda: None)\n"
        "    return app\n"
    )
    (tmp_path / "default.yaml").write_text(
        "version: 1\npolicies: [{name: default, limits: [{rate: 5/minute}]}]\n"
    )
    target = ["--factory", "--target", "resolving_app:create_app", "--policies", "default.yaml"]
    alice = explain("GET", "/items", *target, "--header", "X-User: alice")
    assert (alice["identity"]["principal"], alice["identity"]["tier"]) == ("alice", "pro")
    assert alice["policies"][0]["limits"][0]["limit"] == 77
    root = explain("GET", "/items", *target, "--header", "X-User: root")
    assert root["policies"][0]["status"][0]["outcome"] == "exempt"
    assert explain("GET", "/items", *target)["policies"][0]["limits"][0]["limit"] == 5
    assert not [each for each in caplog.messages if "policy.unused" in each]


def test_explain_verifies_the_credential_of_a_header(file: str) -> None:
    """A valid key yields principal and tier; an invalid one yields the reason."""
    key = ["--policies", file, "--header", "X-API-Key: the key"]
    explanation = explain("post", "/exports", *key)
    assert (explanation["identity"]["principal"], explanation["identity"]["tier"]) == (
        "alice",
        "pro",
    )
    assert explanation["policies"][0]["limits"][0]["limit"] == 60
    explanation = explain("POST", "/exports", "--policies", file, "--header", "X-API-Key: wrong")
    assert (explanation["identity"]["principal"], explanation["identity"]["error"]) == (
        None,
        "unknown_api_key",
    )


def test_explain_answers_for_the_named_principal(file: str) -> None:
    """`--principal` and `--tier` stand for a credential."""
    caller = ["--policies", file, "--principal", "bob", "--tier", "pro"]
    explanation = explain("POST", "/exports", *caller)
    assert (explanation["identity"]["principal"], explanation["identity"]["tier"]) == ("bob", "pro")
    assert explanation["policies"][0]["limits"][0]["limit"] == 60


def test_explain_text_has_a_block_for_each_policy_in_80_columns(file: str) -> None:
    """The text has one block for each policy and fits 80 columns."""
    status, out, _ = run("policies", "explain", "POST", "/exports", "--policies", file)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    subject = explain("POST", "/exports", "--policies", file)["identity"]["subject"]
    assert out == (
        "POST /exports is route POST /exports\n"
        f"from 127.0.0.1, subject {subject}\n"
        "\n"
        "policy exports: enforce for 20 % of the keys, shadow for this one\n"
        "  per principal, route; deny if the store is unavailable\n"
        "  5 per 60 s, burst 9, token_bucket\n"
        "    9 left\n"
        "  4 at a time\n"
        "    4 left\n"
        "\n"
        "policy default: enforce\n"
        "  per principal; local if the store is unavailable\n"
        "  3 per 86400 s, token_bucket\n"
        "    3 left\n"
    )


def test_explain_text_has_the_caller_and_its_tier(file: str) -> None:
    """The text has principal and tier, or the reason why the credential was rejected."""
    arguments = ["policies", "explain", "GET", "/", "--policies", file, "--header"]
    assert "from alice, tier pro, subject " in run(*arguments, "X-API-Key: the key")[1]
    out = run(*arguments, "X-API-Key: wrong", "--address", "192.0.2.1")[1]
    assert "from 192.0.2.1, subject" in out
    assert "the credential is rejected: unknown_api_key" in out


def test_explain_text_has_the_windows_of_a_calendar(tmp_path: Path) -> None:
    """A month has its time zone and its first day, and a long period all of its digits."""
    path = tmp_path / "months.yaml"
    path.write_text(
        "version: 1\npolicies:\n  - name: default\n    limits:\n"
        "      - {rate: 5/month, timezone: Europe/Berlin, anchor: 15}\n"
        "      - {rate: 5/day, timezone: Asia/Tokyo}\n"
        "      - {rate: 5 per 30 days}\n"
    )
    out = run("policies", "explain", "GET", "/", "--policies", str(path))[1]
    assert "  5 per month of Europe/Berlin from 15 on, fixed_window\n    5 left\n" in out
    assert "  5 per day of Asia/Tokyo, fixed_window\n    5 left\n" in out
    assert "  5 per 2592000 s, token_bucket\n    5 left\n" in out


def test_explain_text_without_a_policy(tmp_path: Path) -> None:
    """A request without policies is described as unlimited."""
    path = tmp_path / "none.yaml"
    path.write_text("version: 1\npolicies: []\n")
    out = run("policies", "explain", "GET", "/elsewhere", "--policies", str(path))[1]
    assert out.splitlines()[0] == "GET /elsewhere is route unmatched"
    assert out.endswith("no policy applies: the request is not limited\n")


def test_explain_reads_the_state_from_the_store(
    valkey: EmbeddedValkey, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the URL of a shared store, the state comes from it; waits are in seconds."""
    monkeypatch.setenv("FLEETLIMIT_KEY_PREFIX", "explained")
    found = "has no record of a replica with the key prefix 'explained'"
    with pytest.raises(ConfigError, match=f"{found}: .* try again in a moment"):
        explain("GET", "/", "--policies", file, "--store", valkey.url)
    asyncio.run(serve_once(valkey.url))
    explanation = explain("GET", "/", "--policies", file, "--store", valkey.url)
    assert explanation["policies"][0]["status"][0]["limits"][0]["remaining"] == 3
    limits = explanation["policies"][0]["status"][0]["limits"]
    limits[0].update(remaining=0, retry_after_seconds=12.34)
    assert "    0 left, rejected for 12.3 s" in render(explanation)


async def serve_once(url: str) -> None:
    """Start and end a replica."""
    async with Fleetlimit(store=url):
        pass


def test_explain_refuses_another_key_secret(
    valkey: EmbeddedValkey, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another secret the buckets have other names, so the remaining units are unknown."""
    monkeypatch.setenv("FLEETLIMIT_KEY_PREFIX", "another-secret")
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", "the secret of the fleet")
    asyncio.run(serve_once(valkey.url))
    arguments = ("GET", "/", "--policies", file, "--store", valkey.url)
    for secret in ("", "another secret of 16 bytes"):
        monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", secret)
        with pytest.raises(ConfigError, match="hash callers with another key secret"):
            explain(*arguments)
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", "the secret of the fleet")
    assert explain(*arguments)["policies"][0]["status"]


def test_explain_works_without_the_store(file: str) -> None:
    """An unavailable store leaves the state out and yields the kind of the error."""
    explanation = explain("GET", "/", "--policies", file, "--store", "redis://127.0.0.1:1")
    assert (explanation["policies"][0]["status"], explanation["policies"][0]["store_error"]) == (
        None,
        "connection",
    )
    assert "  state unknown, the store failed: connection" in render(explanation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FETCH", "/exports"], "is no method: write one of"),
        (["GET", "exports"], "'exports' is not a path: write one without a query"),
        (["GET", "/exports?page=2"], "write one without a query"),
        (["GET", "/", "--header", "nonsense"], "write 'Name: value'"),
        (["GET", "/", "--tier", "pro"], "a tier belongs to a principal: write the principal"),
    ],
)
def test_explain_rejects_an_invalid_request(arguments: list[str], message: str) -> None:
    """The message says what to write, as on the admin port."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        run("policies", "explain", *arguments)


def test_explain_rejects_a_missing_target() -> None:
    """A missing app is an error, and the limiter is closed (no warning of an open connection)."""
    with pytest.raises(ConfigError, match="no module"):
        run("policies", "explain", "GET", "/", "--target", "nowhere_to_be_found:app")


def test_explain_calls_a_factory() -> None:
    """With `--factory` the target creates the app, as in `serve`."""
    target = "fleetlimit.server.example_app:create_app"
    explanation = explain("GET", "/items/7", "--target", target, "--factory")
    assert explanation["route"] == "GET /items/{item_id}"
    with pytest.raises(ConfigError, match=f"--factory {target}"):
        run("policies", "explain", "GET", "/", "--target", target)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"port": 8000, "admin_port": 9090, "policies": EXAMPLE_POLICIES, "target": ""}),
        (
            ["a:b", "--host", "::1", "--port", "1", "--admin-port", "2", "--store", "redis://x"],
            {
                "target": "a:b",
                "host": "::1",
                "port": 1,
                "admin_port": 2,
                "store": "redis://x",
                "policies": None,
            },
        ),
        (["--policies", "own.yaml"], {"policies": Path("own.yaml"), "factory": False}),
        (["a:create_app", "--factory"], {"target": "a:create_app", "factory": True}),
    ],
)
def test_serve_passes_each_option(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: dict[str, Any]
) -> None:
    """Each option is passed on; only the example app has default policies."""
    served: list[ServerSettings] = []
    monkeypatch.setattr(runner, "serve", served.append)
    assert run("serve", *arguments)[0] == 0
    assert {name: getattr(served[0], name) for name in expected} == expected


def test_help_lists_the_commands() -> None:
    """Without arguments, the command prints its help."""
    status, out, error = run()
    assert status in {0, 2}
    assert "serve" in out + error


def test_validate_compares_the_policies_with_the_routes_of_an_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that no route of the target matches is an error; a tier that no key has is not."""
    (tmp_path / "app_of_validate.py").write_text(
        "from fastapi import FastAPI\n"
        "app = FastAPI()\n"
        "app.get('/v1/reports/{report_id}')(lambda report_id: None)\n"
        "other = app.router.__call__\n"
        "def create():\n"
        "    return app\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "policies.yaml"
    text = (
        "version: 1\npolicies:\n"
        "  - {name: a, match: {routes: [ROUTE], tiers: [pro]}, limits: [{rate: 1/day}]}\n"
        "  - {name: b, match: {routes: [/v1/rep*]}, limits: [{rate: 1/day}]}\n"
    )
    path.write_text(text.replace("ROUTE", "'/reports/{id}'"))
    with pytest.raises(ConfigError, match="policy a applies to no route: did you mean /v1/rep"):
        run("policies", "validate", str(path), "--target", "app_of_validate:app")
    path.write_text(text.replace("ROUTE", "'/v1/reports/{report_id}'"))
    status, _, err = run("policies", "validate", str(path), "--target", "app_of_validate:app")
    assert status == 0
    assert "warning: policy a names tier pro, which no API key has" in err
    target = ("--target", "app_of_validate:create", "--factory")
    assert run("policies", "validate", str(path), *target)[0] == 0
    with pytest.raises(ConfigError, match="cannot be read"):
        run("policies", "validate", str(path), "--target", "app_of_validate:other")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize(
    "command",
    [
        (),
        ("serve",),
        ("demo",),
        ("policies",),
        ("policies", "validate"),
        ("policies", "explain"),
        ("keys",),
        ("keys", "new"),
        ("hash",),
    ],
)
def test_each_command_has_both_help_flags(command: tuple[str, ...], flag: str) -> None:
    """`-h` and `--help` print the usage of the command, and exit with 0."""
    status, out, _ = run(*command, flag)
    assert status == 0
    assert "Usage:" in out


def test_version_prints_the_version_of_the_package() -> None:
    """`--version` prints one line."""
    assert run("--version") == (0, f"fleetlimit {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "terminal", "is_json"),
    [
        ([], False, True),
        ([], True, False),
        (["--log-format", "auto"], True, False),
        (["--log-format", "human"], False, False),
        (["--log-format", "json"], True, True),
        (["--log-format", "console"], False, False),
    ],
)
def test_log_format_is_human_on_a_terminal_and_json_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], *, terminal: bool, is_json: bool
) -> None:
    """`auto` depends on standard output; the other formats do not."""
    served: list[ServerSettings] = []
    monkeypatch.setattr(runner, "serve", served.append)
    assert run("serve", *arguments)[0] == 0
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert served[0].logs_json is is_json


def test_log_format_that_does_not_exist_names_those_that_do() -> None:
    """The error lists the formats; it is the last line of the log."""
    status, out, _ = run("serve", "--log-format", "xml")
    assert status == 1
    detail = json.loads(out.splitlines()[-1])["detail"]
    assert detail == "log_format: write one of auto, human, json"


def test_explain_has_the_fingerprint_of_the_key_secret(
    valkey: EmbeddedValkey, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fingerprint is the same for each process with the secret, and is compared."""
    monkeypatch.setenv("FLEETLIMIT_KEY_PREFIX", "fingerprint")
    monkeypatch.setenv("FLEETLIMIT_KEY_SECRET", "the secret of the fleet")
    asyncio.run(serve_once(valkey.url))
    fingerprint = KeyScheme(b"the secret of the fleet").fingerprint
    shared = explain("GET", "/", "--policies", file, "--store", valkey.url)
    assert shared["key_secret"] == {"fingerprint": fingerprint, "compared": "that of the replicas"}
    assert f"key secret with fingerprint {fingerprint}, that of the replicas" in render(shared)
    down = explain("GET", "/", "--policies", file, "--store", "redis://127.0.0.1:1")
    assert "the store failed: connection" in down["key_secret"]["compared"]
    alone = explain("GET", "/", "--policies", file)
    assert alone["key_secret"]["fingerprint"] == fingerprint
    assert "fingerprint" not in render(alone)

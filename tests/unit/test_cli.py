"""The command: what it prints, and its exit status."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fleetlimit import cli
from fleetlimit.bootstrap.explain import render
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.errors import ConfigError
from fleetlimit.stores.embedded import EmbeddedValkey

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
def file(tmp_path: Path) -> str:
    digest = hashlib.sha256(b"the key").hexdigest()
    keys = f"keys: [{{sha256: {digest}, principal: alice, tier: pro}}]\n"
    (tmp_path / "keys.yaml").write_text(keys)
    path = tmp_path / "policies.yaml"
    path.write_text(POLICIES)
    return str(path)


def run(*arguments: str) -> tuple[int, str, str]:
    """Return exit status, output and error output, as the installed command has them."""
    result = CliRunner().invoke(cli.app, arguments)
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def explain(*arguments: str) -> Any:
    status, out, _ = run("policies", "explain", "--json", *arguments)
    assert status == 0
    return json.loads(out)


def test_a_good_file(file: str) -> None:
    """A file without faults is 0."""
    assert run("policies", "validate", file) == (0, "", f"{file}: 2 policies, no fault\n")


def test_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with faults is 1, each with its line, unbroken however long."""
    path = tmp_path / f"{'long' * 20}.yaml"
    path.write_text("version: 1\npolicies:\n  - {name: '[red]'}\n  - {name: b, limits: 7}\n")
    monkeypatch.setattr(sys, "argv", ["fleetlimit", "policies", "validate", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{path}:3: ")
    assert lines[-1].startswith(f"{path}:4: ")


def test_a_file_that_names_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of keys that is not there is a fault of the file that names it."""
    path = tmp_path / "policies.yaml"
    path.write_text("version: 1\nidentity: {api_keys: {file: keys.yaml}}\npolicies: []\n")
    monkeypatch.setattr(sys, "argv", ["fleetlimit", "policies", "validate", str(path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert "keys.yaml: the file cannot be read" in capsys.readouterr().err


def test_a_good_command(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """A command that did what it should ends with 0."""
    monkeypatch.setattr(sys, "argv", ["fleetlimit", "policies", "validate", file])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


def test_the_schema() -> None:
    """The JSON Schema is printed whole."""
    status, out, _ = run("policies", "schema")
    assert status == 0
    assert json.loads(out)["title"] == "Fleetlimit policies"


def test_explanation_of_the_bundled_service() -> None:
    """Without a word of one's own it is about the bundled service and its policies."""
    told = explain("GET", "/items/7")
    assert told["route"] == "GET /items/{item_id}"
    assert [policy["name"] for policy in told["policies"]] == ["items"]
    assert explain("WEBSOCKET", "/ws")["policies"][0]["name"] == "socket"


def test_explanation_for_a_caller(file: str) -> None:
    """A header that verifies names the caller and its tier; one that does not says why."""
    key = ["--policies", file, "--header", "X-API-Key: the key"]
    told = explain("post", "/exports", *key)
    assert (told["identity"]["principal"], told["identity"]["tier"]) == ("alice", "pro")
    assert told["policies"][0]["limits"][0]["limit"] == 60
    told = explain("POST", "/exports", "--policies", file, "--header", "X-API-Key: wrong")
    assert (told["identity"]["principal"], told["identity"]["error"]) == (None, "unknown_api_key")


def test_the_text_fits_a_terminal(file: str) -> None:
    """A block for each policy, in 80 columns."""
    status, out, _ = run("policies", "explain", "POST", "/exports", "--policies", file)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    subject = explain("POST", "/exports", "--policies", file)["identity"]["subject"]
    assert out == (
        "POST /exports is route POST /exports\n"
        f"from 127.0.0.1, subject {subject}\n"
        "\n"
        "policy exports: enforce for 20 % of the keys, shadow for this one\n"
        "  per principal, route; deny while the store is away\n"
        "  5 per 60 s, burst 9, token_bucket\n"
        "    9 left\n"
        "  4 at a time\n"
        "    4 left\n"
        "\n"
        "policy default: enforce\n"
        "  per principal; local while the store is away\n"
        "  3 per 86400 s, token_bucket\n"
        "    3 left\n"
    )


def test_the_text_for_a_caller(file: str) -> None:
    """Caller and tier are named, and a credential that was not accepted is told."""
    asked = ["policies", "explain", "GET", "/", "--policies", file, "--header"]
    assert "from alice, tier pro, subject " in run(*asked, "X-API-Key: the key")[1]
    out = run(*asked, "X-API-Key: wrong", "--address", "192.0.2.1")[1]
    assert "from 192.0.2.1, subject" in out
    assert "its credential is not accepted: unknown_api_key" in out


def test_the_text_without_a_policy(tmp_path: Path) -> None:
    """A request that nothing holds is said to be unlimited."""
    path = tmp_path / "none.yaml"
    path.write_text("version: 1\npolicies: []\n")
    out = run("policies", "explain", "GET", "/elsewhere", "--policies", str(path))[1]
    assert out.splitlines()[0] == "GET /elsewhere is route unmatched"
    assert out.endswith("no policy holds it: it is not limited\n")


def test_how_it_stands_in_the_store(valkey: EmbeddedValkey, file: str) -> None:
    """With the service's store the figures are the service's; a wait is told in seconds."""
    told = explain("GET", "/", "--policies", file, "--store", valkey.url)
    assert told["policies"][0]["standing"][0]["limits"][0]["remaining"] == 3
    limits = told["policies"][0]["standing"][0]["limits"]
    limits[0].update(remaining=0, retry_after_seconds=12.34)
    assert "    0 left, refused for 12.3 s" in render(told)


def test_a_store_that_is_away(file: str) -> None:
    """Without the store the policies are told all the same, and why their standing is not."""
    told = explain("GET", "/", "--policies", file, "--store", "redis://127.0.0.1:1")
    assert (told["policies"][0]["standing"], told["policies"][0]["store_error"]) == (
        None,
        "connection",
    )
    assert "  the store does not tell how it stands: connection" in render(told)


def test_a_header_without_a_colon() -> None:
    """What is no header is a mistake in the command's use, status 2."""
    status, _, error = run("policies", "explain", "GET", "/", "--header", "nonsense")
    assert status == 2
    assert "Name: value" in error


def test_a_target_that_is_not_there() -> None:
    """An app that is not there is an error, and nothing is left open."""
    with pytest.raises(ConfigError, match="no module"):
        run("policies", "explain", "GET", "/", "--target", "nowhere_to_be_found:app")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"port": 8000, "admin_port": 9090, "policies": cli.BUNDLED_POLICIES, "target": ""}),
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
        (["--policies", "own.yaml"], {"policies": Path("own.yaml")}),
    ],
)
def test_serving(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: dict[str, Any]
) -> None:
    """Each option arrives; only the bundled service brings its own policies."""
    served: list[Settings] = []
    monkeypatch.setattr(cli, "serve_forever", served.append)
    assert run("serve", *arguments)[0] == 0
    assert {name: getattr(served[0], name) for name in expected} == expected


def test_help_without_a_command() -> None:
    """The command alone tells what there is."""
    status, out, error = run()
    assert status in {0, 2}
    assert "serve" in out + error

"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
_BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the README's files where a user would have them, and stand there."""
    for name, text in _BLOCK.findall(README):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, _ in _BLOCK.findall(README):
        sys.modules.pop(name.removesuffix(".py"), None)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the README with this interpreter."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"},
    )


@pytest.mark.usefixtures("project")
def test_the_dependencies_limit_their_routes() -> None:
    """The first example refuses the sixth export and the sixty-first search."""
    with TestClient(import_module("limited").app) as client:
        exports = [client.post("/exports").status_code for _ in range(6)]
        searches = [client.get("/search").status_code for _ in range(61)]
        spent = [client.post("/completions").status_code for _ in range(26)]
    assert exports == [200] * 5 + [429]
    assert searches == [200] * 60 + [429]
    # Each completion spends 37 of 1,000 at once; the last 100 must be there to be reserved.
    assert spent == [200] * 25 + [429]


@pytest.mark.usefixtures("project")
def test_the_policy_file_limits_by_tier() -> None:
    """The second example lets alice, who is free, in twice, and bob, who is not, further."""
    with TestClient(import_module("policed").app) as client:
        alice = [_report(client, "alice") for _ in range(3)]
        bob = [_report(client, "bob") for _ in range(3)]
        refused = client.get("/reports/1", headers={"X-API-Key": "alice"})
    assert alice == [200, 200, 429]
    assert bob == [200, 200, 200]
    shown = {
        line.split(": ", 1)[0]: line.split(": ", 1)[1]
        for line in _http_example().splitlines()[1:]
        if ": " in line and not line.startswith((" ", "{"))
    }
    assert refused.headers["retry-after"] in {shown["retry-after"], "29"}
    for name in ("content-type", "cache-control", "ratelimit-policy"):
        assert refused.headers[name] == shown[name]
    assert refused.json().keys() == {"type", "title", "detail", "status", "violated-policies"}


def _report(client: TestClient, key: str) -> int:
    return client.get("/reports/1", headers={"X-API-Key": key}).status_code


def _http_example() -> str:
    found = re.search(r"^```http\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_the_commands_say_what_they_do(project: Path) -> None:
    """The policy file is valid, and explained for a caller."""
    assert (project / "policies.yaml").exists()
    valid = command("fleetlimit", "policies", "validate", "policies.yaml")
    assert (valid.returncode, valid.stderr) == (0, "policies.yaml: 2 policies, no fault\n")
    explained = command(
        *("fleetlimit", "policies", "explain", "GET", "/reports/7", "--target", "policed:app"),
        *("--policies", "policies.yaml", "--header", "X-API-Key: alice"),
    )
    assert explained.returncode == 0, explained.stderr
    assert "alice" in explained.stdout
    assert "reports" in explained.stdout


@pytest.mark.usefixtures("project")
def test_the_users_own_test_passes() -> None:
    """The example of a test passes as it stands."""
    run = command("pytest", "-q", "-p", "no:cacheprovider", "test_limits.py")
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


def test_every_guarantee_names_tests_that_are_there() -> None:
    """What the README says is proved is proved by a test of that name."""
    named = set(re.findall(r"`(test_\w+)`", README))
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) >= 14
    assert named <= there, named - there


def test_every_link_leads_somewhere() -> None:
    """A link to a file of the project is to one that is there."""
    links = re.findall(r"\]\(((?!http)[^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_test_says_what_it_proves() -> None:
    """A test's docstring is the sentence that it proves."""
    silent = [
        f"{file.name}: {name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for name, body in re.findall(
            r"^(?:async )?def (test_\w+)\(.*?\) -> \w+:\n(    [^\n]*)",
            file.read_text(),
            re.MULTILINE | re.DOTALL,
        )
        if not body.startswith('    """')
    ]
    assert silent == []

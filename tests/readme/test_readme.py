"""Tests of the README: its code and commands run, and its links and test names exist."""

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
_FILE_BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!http)([^)#]*)#?([^)]*)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the README's files into a directory, and change into it."""
    for name, text in _FILE_BLOCK.findall(README):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, _ in _FILE_BLOCK.findall(README):
        sys.modules.pop(name.removesuffix(".py"), None)


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the README with this interpreter."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"},
    )


@pytest.mark.usefixtures("project")
def test_dependencies_limit_their_routes() -> None:
    """The first example rejects the sixth export and the sixty-first search."""
    with TestClient(import_module("limited").app) as client:
        exports = [client.post("/exports").status_code for _ in range(6)]
        searches = [client.get("/search").status_code for _ in range(61)]
        completions = [client.post("/completions").status_code for _ in range(26)]
    assert exports == [200] * 5 + [429]
    assert searches == [200] * 60 + [429]
    # A completion reserves 100 of 1,000 units and commits 37: after 25, only 75 are left.
    assert completions == [200] * 25 + [429]


@pytest.mark.usefixtures("project")
def test_policy_file_limits_by_tier() -> None:
    """The second example admits alice, of the tier free, twice, and bob, of the tier pro, more."""
    with TestClient(import_module("policed").app) as client:
        alice = [_get_report(client, "alice") for _ in range(3)]
        bob = [_get_report(client, "bob") for _ in range(3)]
        rejected = client.get("/reports/1", headers={"X-API-Key": "alice"})
    assert alice == [200, 200, 429]
    assert bob == [200, 200, 200]
    shown = {
        line.split(": ", 1)[0]: line.split(": ", 1)[1]
        for line in _http_example().splitlines()[1:]
        if ": " in line and not line.startswith((" ", "{"))
    }
    assert rejected.headers["retry-after"] in {shown["retry-after"], "29"}
    for name in ("content-type", "cache-control", "ratelimit-policy"):
        assert rejected.headers[name] == shown[name]
    assert rejected.json().keys() == {"type", "title", "detail", "status", "violated-policies"}


def _get_report(client: TestClient, key: str) -> int:
    return client.get("/reports/1", headers={"X-API-Key": key}).status_code


def _http_example() -> str:
    found = re.search(r"^```http\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def test_policy_commands_validate_and_explain(project: Path) -> None:
    """`validate` accepts the policy file, and `explain` prints the policies for a caller."""
    assert (project / "policies.yaml").exists()
    valid = run_module("fleetlimit", "policies", "validate", "policies.yaml")
    assert (valid.returncode, valid.stderr) == (0, "policies.yaml: 2 policies, no error\n")
    explained = run_module(
        *("fleetlimit", "policies", "explain", "GET", "/reports/7", "--target", "policed:app"),
        *("--policies", "policies.yaml", "--header", "X-API-Key: alice"),
    )
    assert explained.returncode == 0, explained.stderr
    assert "alice" in explained.stdout
    assert "reports" in explained.stdout


@pytest.mark.usefixtures("project")
def test_example_test_passes() -> None:
    """The example of a test passes unchanged."""
    run = run_module("pytest", "-q", "-p", "no:cacheprovider", "test_limits.py")
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout


def test_ci_commands_are_in_the_readme() -> None:
    """Every block that `.ci/run` executes exists; a missing block would run nothing and pass."""
    script = (ROOT / ".ci" / "run").read_text()
    executed = set(re.findall(r"\$\(readme ([\w-]+)\)", script))
    marked = set(re.findall(r"^<!-- ci: ([\w-]+) -->\n```sh\n\S", README, re.MULTILINE))
    assert executed
    assert executed == marked


def test_guarantees_name_existing_tests() -> None:
    """Every test that the README names as a proof exists."""
    named = set(re.findall(r"`(test_\w+)`", README))
    existing = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) >= 14
    assert named <= existing, named - existing


@pytest.mark.parametrize("name", [*(each.name for each in ROOT.glob("*.md")), "docs/versions.md"])
def test_links_have_targets(name: str) -> None:
    """Every relative link has an existing file, and every fragment a heading in it."""
    page = ROOT / name
    broken = [
        f"{path}#{fragment}"
        for path, fragment in _LINK.findall(_CODE_BLOCK.sub("", page.read_text()))
        if not _has_target(page.parent / path if path else page, fragment)
    ]
    assert broken == []


def _has_target(file: Path, fragment: str) -> bool:
    if not fragment:
        return file.exists()
    return file.is_file() and fragment in {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in _HEADING.findall(file.read_text())
    }


def test_every_test_has_a_docstring() -> None:
    """Every test function has a docstring that states what it proves."""
    undocumented = [
        f"{file.name}: {name}"
        for file in (ROOT / "tests").rglob("test_*.py")
        for name, body in re.findall(
            r"^(?:async )?def (test_\w+)\(.*?\) -> \w+:\n(    [^\n]*)",
            file.read_text(),
            re.MULTILINE | re.DOTALL,
        )
        if not body.startswith('    """')
    ]
    assert undocumented == []

"""Tests of the tutorial: its code and commands run."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from support.pages import Load
from support.tool import ROOT

PAGE = "docs/tutorial.md"


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the tutorial with this interpreter."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"},
    )


def test_dependencies_limit_their_routes(load: Load) -> None:
    """The first example rejects the sixth export and the sixty-first search."""
    with TestClient(load(PAGE, "limited").app) as client:
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
    text = (ROOT / PAGE).read_text("utf-8")
    found = re.search(r"^```http\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
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
    run = run_module("pytest", "-q", "-p", "no:cacheprovider", "test_exports.py")
    assert run.returncode == 0, run.stdout
    assert "1 passed" in run.stdout

"""Tests of the skill file for agents: its examples and commands run, and packages have it."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from fleetlimit import cli
from support.pages import Load, project_of, write_keys
from support.tool import ROOT

PAGE = "app/fleetlimit/.agents/skills/fleetlimit/SKILL.md"
TEXT = (ROOT / PAGE).read_text("utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the files of the skill, and its key file."""
    with project_of(ROOT / PAGE, tmp_path, monkeypatch) as folder:
        write_keys(folder / "keys.yaml", alice=None, bob="pro")
        yield folder


def test_front_matter_has_a_name_and_a_description() -> None:
    """The name is that of the directory, and agents show the description in their list."""
    front_matter = yaml.safe_load(TEXT.split("---\n")[1])
    assert front_matter["name"] == (ROOT / PAGE).parent.name
    assert 40 < len(front_matter["description"]) <= 1_024
    assert len(TEXT.splitlines()) < 150


@pytest.mark.usefixtures("project")
def test_limits_in_code(load: Load) -> None:
    """The burst of exports is 2."""
    with TestClient(load(PAGE, "limits_in_code").app) as client:
        assert [client.post("/exports").status_code for _ in range(3)] == [200, 200, 429]
        assert client.get("/reports").status_code == 200


def test_limits_in_the_policy_file(load: Load, project: Path) -> None:
    """Tiers have their limits, and the health route has none."""
    app = load(PAGE, "limits_in_file").app
    assert (project / "policies.yaml").exists()
    with TestClient(app) as client:
        for key, admitted in (("alice", 2), ("bob", 5)):
            headers = {"X-API-Key": key}
            statuses = [client.get("/items/1", headers=headers).status_code for _ in range(6)]
            assert statuses == [200] * admitted + [429] * (6 - admitted)
        assert {client.get("/health").status_code for _ in range(120)} == {200}


@pytest.mark.usefixtures("project")
def test_example_test_passes() -> None:
    """The test of the skill passes with the fixtures of the package."""
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_skill.py")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "1 passed" in ran.stdout, ran.stdout


@pytest.mark.usefixtures("project")
def test_commands_run() -> None:
    """Every command of the skill succeeds."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    Path("src").mkdir()
    for line in block.splitlines():
        text = line.partition("#")[0].replace("package.module", "limits_in_file")
        result = CliRunner().invoke(cli.app, shlex.split(text)[1:])
        assert result.exit_code == 0, (line, result.output, result.exception)


def test_wheel_and_source_distribution_have_the_skill() -> None:
    """Both packages contain the file: a dot in front of a directory does not exclude it."""
    sdist = pytest.importorskip("hatchling.builders.sdist").SdistBuilder(str(ROOT))
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(ROOT))
    assert PAGE in {each.relative_path for each in sdist.recurse_included_files()}
    assert PAGE.removeprefix("app/") in {
        each.distribution_path for each in wheel.recurse_included_files()
    }

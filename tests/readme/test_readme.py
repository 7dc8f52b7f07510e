"""Tests of the README: its example runs, and its commands, tests and links exist."""

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from support.pages import PAGES
from support.tool import ROOT

PAGE = "README.md"
README = (ROOT / PAGE).read_text("utf-8")
_CODE_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!http)([^)#]*)#?([^)]*)\)")
_REPOSITORY = r"https://(?:github|raw\.githubusercontent)\.com/fleetlimit/fleetlimit(?:/blob)?"
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.mark.usefixtures("project")
def test_example_limits_by_dependency_and_by_policy_file() -> None:
    """The example rejects the sixth export by its dependency, and a third report by its policy."""
    with TestClient(import_module("main").app) as client:
        exports = [client.post("/exports").status_code for _ in range(6)]
        # Two a second: of three requests within a second, the third is rejected; a slow machine
        # needs more of them.
        rejected = next(
            each for _ in range(600) if (each := client.get("/reports/1")).status_code == 429
        )
    assert exports == [200] * 5 + [429]
    assert rejected.headers["content-type"] == "application/problem+json"
    assert rejected.json()["violated-policies"] == ["reports"]


def test_readme_is_short() -> None:
    """The README has about 120 lines; details belong to docs."""
    assert len(README.splitlines()) <= 130


def test_ci_commands_are_in_the_pages() -> None:
    """Every block that `.ci/run` executes exists once; a missing block would run nothing."""
    script = (ROOT / ".ci" / "run").read_text()
    executed = sorted(set(re.findall(r"\$\(readme ([\w-]+)\)", script)))
    # The pages that the script reads.
    texts = [README, *(each.read_text("utf-8") for each in (ROOT / "docs").glob("*.md"))]
    marked = [
        name
        for text in texts
        for name in re.findall(r"^<!-- ci: ([\w-]+) -->\n```sh\n\S", text, re.MULTILINE)
    ]
    assert executed
    assert executed == sorted(marked)


@pytest.mark.parametrize("page", ["README.md", "docs/guarantees.md"])
def test_guarantees_name_existing_tests(page: str) -> None:
    """Every test that a page names as a proof exists."""
    named = set(re.findall(r"`(test_\w+)`", (ROOT / page).read_text("utf-8")))
    existing = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert len(named) >= 9
    assert named <= existing, named - existing


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *PAGES[1:]], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_have_targets(page: Path) -> None:
    """Every relative link has an existing file, and every fragment a heading in it."""
    broken = [
        f"{path}#{fragment}"
        for path, fragment in _LINK.findall(_CODE_BLOCK.sub("", page.read_text("utf-8")))
        if not _has_target(page.parent / path if path else page, fragment)
    ]
    assert broken == []


def test_links_on_the_package_index_are_urls_of_the_repository() -> None:
    """The build rewrites every relative link and picture to the URL of the same file."""
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"][
        "hooks"
    ]
    shown = README
    for each in hook["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(each["pattern"], each["replacement"], shown)
    assert _LINK.findall(_CODE_BLOCK.sub("", shown)) == []
    assert _CODE_BLOCK.findall(shown) == _CODE_BLOCK.findall(README)
    rewritten = re.findall(rf"{_REPOSITORY}/v\$HFPR_VERSION/([^)#]*)", shown)
    assert len(rewritten) == len(_LINK.findall(_CODE_BLOCK.sub("", README)))
    assert [path for path in rewritten if not (ROOT / path).exists()] == []
    assert not re.search(r"!\[[^]]*\]\(https://github.com", shown)


def _has_target(file: Path, fragment: str) -> bool:
    if not fragment:
        return file.exists()
    return file.is_file() and fragment in {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
        for heading in _HEADING.findall(file.read_text("utf-8"))
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

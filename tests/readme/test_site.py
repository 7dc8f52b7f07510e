"""Tests of the documentation site: its pages are found, and the examples on them are typed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import build_site
import fleetlimit
from fleetlimit import testing
from reference import api_pages, policy_file_page
from support.pages import PAGES, files_of
from support.tool import ROOT, check_with_pyright

NAV = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]


def _pages_in(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [
        page
        for each in (nav.values() if isinstance(nav, dict) else nav)
        for page in _pages_in(each)
    ]


def test_every_page_is_in_the_navigation_once() -> None:
    """zensical.toml names all pages, written and generated, and no page that does not exist."""
    written = [page for _, page in build_site.sources() if not page.startswith("adr/")]
    assert sorted(_pages_in(NAV)) == sorted([*written, *build_site.generated_pages()])


def test_every_decision_is_in_the_list_of_decisions() -> None:
    """The generated list has a link with the title to each decision."""
    page = build_site.generated_pages()[build_site.DECISIONS]
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert re.findall(r"^- \[\d+\. .+\]\((.+)\)$", page, re.MULTILINE) == [f.name for f in files]


@pytest.mark.parametrize("source", list(build_site.sources()), ids=lambda source: source[1])
def test_links_in_the_site_leave_no_file_of_the_repository(source: tuple[Path, str]) -> None:
    """Links are pages of the site, or URLs of the repository for files outside of docs."""
    text = re.sub(
        r"^```.*?^```$", "", build_site.site_text(*source), flags=re.MULTILINE | re.DOTALL
    )
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)
    pages = {page for _, page in build_site.sources()} | build_site.generated_pages().keys()
    for link in links:
        if link.endswith(".md"):
            joined = (Path("/") / source[1]).parent.joinpath(link).resolve()
            assert str(joined)[1:] in pages, link
        else:
            assert link.endswith(".svg"), link


def test_link_without_a_target_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that links to a missing file cannot be built; links in code are not looked at."""
    monkeypatch.setattr(build_site, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("`[a](b)`\n\n```yaml\n[a](b)\n```\n[a](#b) [c](https://d.e)\n")
    assert build_site.site_text(page, "page.md") == page.read_text()
    page.write_text("see [a](missing.md)")
    with pytest.raises(build_site.BrokenLinkError, match=r"page\.md: there is no missing\.md"):
        build_site.site_text(page, "page.md")


def test_reference_has_every_public_name_once() -> None:
    """The generated pages of the API name each public object on one page."""
    named = [
        name
        for page in api_pages().values()
        for name in re.findall(r"^::: (.*)$", page, re.MULTILINE)
    ]
    public = [f"fleetlimit.{name}" for name in fleetlimit.__all__]
    assert sorted(named) == sorted([*public, *(f"fleetlimit.testing.{n}" for n in testing.__all__)])


def test_reference_of_the_limiters_has_the_methods_of_their_bases() -> None:
    """`check` and the other methods that a base without an entry defines are in the reference."""
    text = "".join(api_pages().values())
    for name in ("Fleetlimit", "Limiter"):
        assert f"::: fleetlimit.{name}\n    options:\n      inherited_members: true\n" in text


def test_reference_of_the_policy_file_has_every_field() -> None:
    """The page has a row for each field of the JSON schema, with its type, default and meaning."""
    page = policy_file_page()
    for field in (
        "version",
        "policies",
        "trusted_proxies",
        "enforce_percent",
        "concurrency",
        "burst",
    ):
        assert re.search(rf"^\| `{field}` \| [^|]+ \| [^|]* \| [^|]+ \|$", page, re.MULTILINE), (
            field
        )
    assert '| `on_store_error` | `allow`, `deny`, `local` | `"local"` |' in page
    assert "[rate limit](#rate-limit) or [concurrency limit](#concurrency-limit)" in page


@pytest.fixture
def examples(tmp_path: Path) -> list[str]:
    """Return the names of the Python files of all pages, written into `tmp_path`."""
    pages = [page for page in PAGES if "adr" not in page.parts]
    pages += (ROOT / "app/fleetlimit/.agents").rglob("SKILL.md")
    written: dict[str, str] = {}
    for page in pages:
        for name, text in files_of(page).items():
            if name.endswith(".py"):
                assert written.setdefault(name, text) == text, f"{page}: two files are named {name}"
                (tmp_path / name).write_text(text, "utf-8")
    return sorted(written)


def test_examples_of_the_pages_are_typed(tmp_path: Path, examples: list[str]) -> None:
    """Mypy finds no error in the Python files of all pages, in strict mode."""
    options = (
        "--strict",
        "--config-file=",
        "--python-version=3.11",
        f"--cache-dir={tmp_path}/.cache",
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *examples],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert f"{len(examples)} source files" in run.stdout


@pytest.mark.usefixtures("examples")
def test_pyright_accepts_the_examples_of_the_pages(tmp_path: Path) -> None:
    """Pyright finds no error in them either, and reports what it does not know."""
    assert "0 errors, 0 warnings" in check_with_pyright(tmp_path)
    (tmp_path / "untyped.py").write_text("def spend(cost): return cost\n", "utf-8")
    with pytest.raises(AssertionError, match="reportUnknownParameterType"):
        check_with_pyright(tmp_path)

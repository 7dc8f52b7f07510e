"""Tests of the short examples on all pages: Python compiles, and policies are valid."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

from fleetlimit.policy_file import parse
from support.pages import PAGES
from support.tool import ROOT

_BLOCK = re.compile(r"^( *)```(python|yaml)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_POLICY_KEYS = re.compile(r"^(?:policies|identity|defaults):", re.MULTILINE)
_PAGES = [page for page in PAGES if _BLOCK.search(page.read_text("utf-8"))]


def _blocks(page: Path, language: str) -> list[str]:
    found = _BLOCK.findall(page.read_text("utf-8"))
    return [textwrap.dedent(text) for _, kind, text in found if kind == language]


def _as_policy_file(text: str) -> str | None:
    """Return a part of a policy file as a whole one; None for other YAML."""
    if text.startswith("- name:"):
        text = "policies:\n" + textwrap.indent(text, "  ")
    elif text.startswith("limits:"):
        text = "policies:\n  - name: default\n" + textwrap.indent(text, "    ")
    if not _POLICY_KEYS.search(text):
        return None
    if not re.search(r"^version:", text, re.MULTILINE):
        text = "version: 1\n" + text
    if not re.search(r"^policies:", text, re.MULTILINE):
        text += "policies: [{name: default, limits: [{rate: 1/second}]}]\n"
    return text


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_of_a_page_compiles(page: Path) -> None:
    """Each Python block is code; it may `await` at the top level, and end with a decorator."""
    for text in _blocks(page, "python"):
        if re.search(r"^(?:@\S.*|\]\))\n\Z", text, re.MULTILINE):
            text += "async def endpoint(): ..."  # noqa: PLW2901 - what a reader adds
        compile(text, "<block>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_policies_of_a_page_are_valid(page: Path) -> None:
    """Each block with a part of a policy file is accepted, as it stands or completed."""
    for text in _blocks(page, "yaml"):
        file = _as_policy_file(text)
        if file is not None:
            parse(file)


def test_policies_of_the_pages_are_found() -> None:
    """The pages have parts of policy files, so that the test above looks at some."""
    found = [
        file for page in _PAGES for text in _blocks(page, "yaml") if (file := _as_policy_file(text))
    ]
    assert len(found) > 20

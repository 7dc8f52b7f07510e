"""The count of instructions, without valgrind."""

import pytest
import typer

import instructions


def test_missing_valgrind_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that counts is no Python package."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(typer.BadParameter, match="install the package of that name"):
        instructions.main()

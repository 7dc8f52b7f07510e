"""One invalid file for each error, with its message."""

from pathlib import Path

import pytest

from fleetlimit.policy_file import load
from fleetlimit.strict_yaml import DocumentErrors

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_error_has_line_and_fix(path: Path) -> None:
    """Each invalid file has exactly one error, with its line and what to write instead."""
    first, _, _ = path.read_bytes().partition(b"\n")
    expected = first.decode().removeprefix("# expect: ")

    with pytest.raises(DocumentErrors) as rejected:
        load(path)

    assert len(rejected.value.errors) == 1
    message = str(rejected.value)
    assert message.startswith((f"{path}:{expected}", f"{path}: {expected}"))


def test_bad_files_are_found() -> None:
    """The invalid files exist."""
    assert len(BAD) > 50

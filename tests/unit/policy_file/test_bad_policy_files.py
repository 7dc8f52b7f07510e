"""One bad file for each error, and the message that it earns."""

from pathlib import Path

import pytest

from fleetlimit.policy_file import load
from fleetlimit.strict_yaml import DocumentErrors

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_names_the_line_and_the_fix(path: Path) -> None:
    """Each bad file is refused with its one error, its line, and what to write instead."""
    first, _, _ = path.read_bytes().partition(b"\n")
    expected = first.decode().removeprefix("# expect: ")

    with pytest.raises(DocumentErrors) as refused:
        load(path)

    assert len(refused.value.errors) == 1
    message = str(refused.value)
    assert message.startswith((f"{path}:{expected}", f"{path}: {expected}"))


def test_every_bad_file_is_there() -> None:
    """The bad files are found."""
    assert len(BAD) > 50

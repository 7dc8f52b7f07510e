"""Errors form one tree, and say what is wrong, where, and whether to try again."""

import pytest

from fleetlimit import errors
from fleetlimit.errors import (
    BucketCorrupt,
    ConfigError,
    DocumentError,
    FleetlimitError,
    IdentityError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)


def test_every_error_is_in_the_drawn_tree() -> None:
    """All errors derive from one, and the module's docstring draws each of them."""
    found = [each for each in vars(errors).values() if isinstance(each, type)]
    assert len(found) == 9
    for each in found:
        assert issubclass(each, FleetlimitError)
        assert each.__name__ in str(errors.__doc__)


@pytest.mark.parametrize(
    ("source", "line", "text"),
    [
        ("p.yaml", 7, "p.yaml:7: no limits"),
        ("p.yaml", 0, "p.yaml: no limits"),
        ("", 7, "7: no limits"),
        ("", 0, "no limits"),
    ],
)
def test_policy_error_says_where(source: str, line: int, text: str) -> None:
    """What is wrong in a document is told with as much of its place as is known."""
    error = DocumentError("no limits", source=source, line=line)
    assert str(error) == text
    assert (error.message, error.source, error.line) == ("no limits", source, line)
    assert isinstance(error, ConfigError)


def test_identity_error_has_a_word_for_machines() -> None:
    """A credential that did not verify has a stable reason beside its message."""
    assert IdentityError("the token is too old", reason="expired").reason == "expired"


@pytest.mark.parametrize(
    ("kind", "transient"), [(StoreUnavailable, True), (StoreRefused, False), (BucketCorrupt, False)]
)
def test_store_error_says_whether_to_try_again(
    kind: type[StoreError],
    transient: bool,  # noqa: FBT001 - a case's column
) -> None:
    """Only a store that is away is worth another try."""
    error = kind("no", kind="word")
    assert (error.transient, error.kind, str(error)) == (transient, "word", "no")

"""Exceptions: one tree, with the location and the kind of the error."""

from typing import Any

import pytest

from fleetlimit import errors
from fleetlimit.errors import (
    BucketCorrupt,
    ConfigError,
    DocumentError,
    FleetlimitError,
    IdentityError,
    StoreError,
    StoreRejected,
    StoreUnavailable,
)


def test_every_exception_is_in_the_documented_tree() -> None:
    """All exceptions derive from one, and the module's docstring contains each of them."""
    found = [each for each in vars(errors).values() if isinstance(each, type)]
    assert len(found) == 10
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
def test_document_error_contains_the_location(source: str, line: int, text: str) -> None:
    """The message starts with as much of the location as is known."""
    error = DocumentError("no limits", source=source, line=line)
    assert str(error) == text
    assert (error.message, error.source, error.line) == ("no limits", source, line)
    assert isinstance(error, ConfigError)


def test_identity_error_has_a_stable_reason() -> None:
    """An invalid credential has a stable reason beside its message."""
    assert IdentityError("the token is too old", reason="expired").reason == "expired"


@pytest.mark.parametrize("seconds", [-1, 1.5, True, "5", "5\r\nSet-Cookie: a=b"])
def test_retry_after_is_a_whole_number_of_seconds(seconds: Any) -> None:
    """It is the value of a header, which has no other form."""
    with pytest.raises(ConfigError, match="is not a number of seconds: write a whole one from 0"):
        IdentityError("the directory is down", reason="directory_down", retry_after=seconds)
    assert IdentityError("it is down", reason="directory_down", retry_after=0).retry_after == 0


@pytest.mark.parametrize(
    ("kind", "transient"),
    [(StoreUnavailable, True), (StoreRejected, False), (BucketCorrupt, False)],
)
def test_store_error_knows_whether_it_is_transient(
    kind: type[StoreError],
    transient: bool,  # noqa: FBT001 - a case's column
) -> None:
    """Only an unavailable store is worth a retry."""
    error = kind("no", kind="timeout")
    assert (error.transient, error.kind, str(error)) == (transient, "timeout", "no")


@pytest.mark.parametrize("scheme", ["", "Bearer realm", "Bearer\r\nX: y", "Schlüssel"])
def test_scheme_that_no_header_can_have_is_rejected(scheme: str) -> None:
    """The scheme is sent in a header, so it must be a token."""
    with pytest.raises(ConfigError, match="is not an authentication scheme: write Bearer"):
        IdentityError("no", reason="expired", scheme=scheme)
    assert IdentityError("no", reason="expired").scheme == "Custom"

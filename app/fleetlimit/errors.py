"""Exceptions that Fleetlimit raises.

FleetlimitError
├── ConfigError             a setting, argument or file is invalid; the message says what to write
│   ├── DocumentError       the same, with file and line
│   └── KeySecretError      the replicas name their buckets with another key secret
├── CostError               a cost that no bucket can ever hold
├── IdentityError           a credential that was presented is not valid, or not verifiable now
└── StoreError              a call of the shared store failed
    ├── StoreUnavailable    not reached, timed out, or still loading: a retry may succeed
    ├── StoreRejected       the store replied with an error: a retry alone does not help
    └── BucketCorrupt       one key holds a value that is not a bucket; other keys are unaffected

A request that a limit denies is a `Decision`, not an exception of this tree. The dependencies of a
route raise `RequestRejected` (`web/exceptions.py`) for it, which is an `HTTPException`.
"""

import re
from typing import Final

_SCHEME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


class FleetlimitError(Exception):
    """Base class of all exceptions of Fleetlimit."""


class ConfigError(FleetlimitError, ValueError):
    """A setting, argument or file is invalid; the message says what to write."""


class DocumentError(ConfigError):
    """A document is invalid at a known line.

    Args:
        message: What is wrong and what to write instead.
        source: Name of the file, or another name of the origin of the text.
        line: Line of the text, counted from 1; 0 if it is not known.
    """

    def __init__(self, message: str, *, source: str = "", line: int = 0) -> None:
        location = ":".join(part for part in (source, str(line) if line else "") if part)
        super().__init__(f"{location}: {message}" if location else message)
        self.message = message
        self.source = source
        self.line = line


class KeySecretError(ConfigError):
    """This process cannot find the buckets of callers: the replicas use another key secret."""


class CostError(FleetlimitError, ValueError):
    """A cost is negative, not an integer, or more than a limit can ever hold."""


class IdentityError(FleetlimitError):
    """A credential was presented and is not valid, or cannot be verified at the moment.

    Args:
        message: What is wrong, without the credential itself.
        reason: Short stable identifier for logs and responses, such as `expired`.
        scheme: Authentication scheme of the credential, for the `WWW-Authenticate` header.
        retry_after: Seconds after which a retry may succeed, if the service that verifies the
            credential is unavailable; None for an invalid credential.

    Raises:
        ConfigError: The scheme is not a token (RFC 9110 §11.1), or `retry_after` is no whole number
            (§10.2.3).
    """

    def __init__(
        self, message: str, *, reason: str, scheme: str = "Custom", retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        if not _SCHEME.fullmatch(scheme):
            raise ConfigError(f"{scheme!r} is not an authentication scheme: write Bearer, or such")
        if retry_after is not None and (type(retry_after) is not int or retry_after < 0):
            raise ConfigError(
                f"retry_after={retry_after!r} is not a number of seconds: write a whole one from 0"
            )
        self.reason = reason
        self.scheme = scheme
        self.retry_after = retry_after


class StoreError(FleetlimitError):
    """A call of the shared store failed.

    Args:
        message: What happened, without credentials.
        kind: Short stable identifier, one of a bounded number, used as a metric label.
    """

    transient = False
    """Whether a retry may succeed."""

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class StoreUnavailable(StoreError):
    """The store was not reached, did not reply in time, or is still loading."""

    transient = True


class StoreRejected(StoreError):
    """The store replied with an error: read-only, out of memory, wrong type, no permission."""


class BucketCorrupt(StoreError):
    """The key of a bucket holds a value that Fleetlimit did not write."""

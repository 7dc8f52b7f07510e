"""Every error that Fleetlimit raises on purpose.

FleetlimitError
├── ConfigError             a setting, argument or file that cannot work; the message says the fix
│   └── DocumentError       the same, with its file and line; `documents` raises all of a file's
├── CostError               a cost that no bucket could ever pay
├── IdentityError           a credential that was presented and is not valid
└── StoreError              the shared store did not do what was asked
    ├── StoreUnavailable    not reached, not in time, or not ready: worth trying again
    ├── StoreRefused        reached, and it said no: trying again alone does not help
    └── BucketCorrupt       one key holds something that is no bucket; the others are fine

A refusal because a limit is spent is not an error: it is a `Decision`.
"""


class FleetlimitError(Exception):
    """Base of every error raised by Fleetlimit."""


class ConfigError(FleetlimitError, ValueError):
    """A setting, argument or file cannot work as written; the message says what to write."""


class DocumentError(ConfigError):
    """A document is wrong at a known place.

    Args:
        message: What is wrong and what to write instead.
        source: The file's name, or another name for where the text came from.
        line: Line in that text, counted from 1; 0 when the place is not known.
    """

    def __init__(self, message: str, *, source: str = "", line: int = 0) -> None:
        place = ":".join(part for part in (source, str(line) if line else "") if part)
        super().__init__(f"{place}: {message}" if place else message)
        self.message = message
        self.source = source
        self.line = line


class CostError(FleetlimitError, ValueError):
    """The cost is negative, not a whole number, or above what the limit can ever hold."""


class IdentityError(FleetlimitError):
    """A credential was presented and did not verify.

    Args:
        message: What is wrong with it, without the credential itself.
        reason: A short stable word for logs and responses, such as `expired`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class StoreError(FleetlimitError):
    """The shared store did not do what was asked.

    Args:
        message: What happened, without credentials.
        kind: A short stable word, bounded in number, used as a metric label.
    """

    transient = False

    def __init__(self, message: str, *, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class StoreUnavailable(StoreError):
    """The store was not reached, did not answer in time, or is still loading."""

    transient = True


class StoreRefused(StoreError):
    """The store answered with an error: read-only, out of memory, wrong type, no permission."""


class BucketCorrupt(StoreError):
    """A bucket's key holds a value that Fleetlimit did not write."""

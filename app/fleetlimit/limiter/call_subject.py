"""The subject of a check that code makes by hand, from the arguments of the call.

A module of its own, because it is compiled: a compiled class parses the arguments of an interpreted
call slowly.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Final

from fleetlimit.core.keys import MAX_CACHED_CHARS
from fleetlimit.core.subject import NO_HEADERS, Principal, Subject
from fleetlimit.errors import ConfigError

_principal_named: Final = lru_cache(1_024)(Principal)


def call_subject(
    subject: Subject | None, principal: str | Principal | None, key: object
) -> Subject:
    """Return the caller and the route of a check.

    Args:
        subject: Both; None without.
        principal: The caller, in place of `subject`.
        key: Value that the buckets are keyed on; None without.

    Raises:
        ConfigError: The key is not text.
    """
    if key is not None and not isinstance(key, str):
        raise ConfigError(f"key={key!r} is not text: write key=str(...)")
    if subject is not None:
        return subject if key is None else replace(subject, key=key)
    if isinstance(principal, str):
        cacheable = len(principal) <= MAX_CACHED_CHARS
        principal = _principal_named(principal) if cacheable else Principal(principal)
    return Subject(principal=principal, headers=NO_HEADERS, key=key)

"""Subjects of checks that no request has made: the caller of a job or a script."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Policy
from fleetlimit.core.subject import NO_HEADERS, UNMATCHED_ROUTE, Principal, Subject
from fleetlimit.errors import ConfigError

_NO_ADDRESS: Final = Subject().client_address
_GIVEN_KINDS: Final = frozenset({KeyKind.HEADER, KeyKind.PATH, KeyKind.FUNCTION})
"""Parts of a key that `key=` has the value of."""


def to_principal(principal: str | Principal, tier: str | None = None) -> Principal:
    """Return a principal that code names.

    Args:
        principal: Name of the caller, or the caller.
        tier: Tier of a caller that is given by its name; None for no tier.

    Raises:
        ConfigError: The principal has no name, or the tier is given twice.
    """
    if isinstance(principal, Principal):
        if tier is not None:
            raise ConfigError(
                f"tier={tier!r} is given beside a Principal: write Principal({principal.name!r}, "
                f"tier={tier!r})"
            )
    elif not isinstance(principal, str):
        raise ConfigError(
            f"principal={principal!r} is not a name: write principal=str(...), or a Principal"
        )
    else:
        principal = Principal(principal, tier or "")
    if not principal.name:
        raise ConfigError("principal='' is no caller: write the caller's name")
    return principal


def to_key(key: str | None) -> str | None:
    """Return the value of a key that code gives.

    Raises:
        ConfigError: It is no text, or empty.
    """
    if key is not None and (not isinstance(key, str) or not key):
        raise ConfigError(f"key={key!r} is not the value of a key: write key=str(...)")
    return key


@dataclass(frozen=True, slots=True)
class CallerArguments:
    """The caller of a check, as the arguments of the check state it.

    Args:
        principal: The caller, or its name.
        tier: Tier of a caller that is given by its name.
        key: Value of the key.
        subject: All of it, in place of the other arguments.
    """

    principal: str | Principal | None
    tier: str | None
    key: str | None
    subject: Subject | None


def job_subject(arguments: CallerArguments) -> Subject:
    """Return the subject that the arguments of a check describe.

    Raises:
        ConfigError: The arguments contradict each other.
    """
    principal, tier, subject = arguments.principal, arguments.tier, arguments.subject
    key = to_key(arguments.key)
    if subject is not None:
        if principal is not None or tier is not None or key is not None:
            raise ConfigError(
                "principal=, tier= and key= are given beside subject=: write "
                "subject=Subject(principal=Principal(...), key=...)"
            )
        return subject
    if principal is None:
        if tier is not None:
            raise ConfigError(f"tier={tier!r} is given without a caller: write principal=, too")
        return Subject(headers=NO_HEADERS, key=key)
    return Subject(principal=to_principal(principal, tier), headers=NO_HEADERS, key=key)


def require_complete(policies: Iterable[Policy], subject: Subject) -> None:
    """Check that a subject has all properties that the keys of policies are made from.

    All checks without such a property would share one bucket.

    Raises:
        ConfigError: A property is missing; the message says what to write.
    """
    for policy in policies:
        given = [part for part in policy.key if part.kind in _GIVEN_KINDS]
        if subject.key is not None and not given:
            # The value is that of the whole key.
            continue
        for part in policy.key:
            if missing := _missing(part, subject):
                raise ConfigError(
                    f"policy {policy.name} is keyed on {part}, which this check does not state: "
                    f"write {missing}"
                )


def _missing(part: KeyPart, subject: Subject) -> str:
    """Return what to write for a part of a key that a subject does not have; empty if it has."""
    has_address = subject.client_address != _NO_ADDRESS
    if part.kind in _GIVEN_KINDS:
        values = subject.key_values
        found: object = subject.key
        if found is None and part.kind is KeyKind.HEADER:
            found = subject.headers.get(part.name)
        elif found is None and values is not None:
            in_path = part.kind is KeyKind.PATH
            found = values.path.get(part.name) if in_path else values.functions
        return 'key="..."' if found is None else ""
    if part.kind is KeyKind.PRINCIPAL and subject.principal is None and not has_address:
        return 'principal="..."'
    if part.kind is KeyKind.CLIENT_ADDRESS and not has_address:
        return 'subject=Subject("192.0.2.1")'
    if part.kind is KeyKind.ROUTE and subject.route == UNMATCHED_ROUTE:
        return 'subject=Subject(route="..."), or for a limit in code RateLimit(..., name="...")'
    return ""

"""Builder of the request identifier that a policy file's identity section describes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from fleetlimit.identity import (
    ApiKeyVerifier,
    ClientAddressResolver,
    CredentialVerifier,
    PrincipalResolver,
    RequestIdentifier,
    any_issuer,
    jwt_verifier,
    open_jwks,
    open_secret,
)
from fleetlimit.limiter.app_function import DEFAULT_TIMEOUT_S
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.policy_file import ApiKeysSection, IdentitySection, JwtSection

if TYPE_CHECKING:  # it needs PyJWT, an extra
    from fleetlimit.identity.jwks import JwksSource
    from fleetlimit.identity.shared_secret import SharedSecret

    KeySource = JwksSource | SharedSecret

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class _Built(Generic[Part]):
    """A part of an identifier, and all that it was built from."""

    source: object
    part: Part


class IdentifierBuilder:
    """Builder of identifiers that keeps each part whose settings and file are the same.

    A new verifier has neither the issuer's keys nor the tokens that it verified. If each reload of
    the policy file made one, a change of a limit while the issuer is unavailable would make all
    tokens fail.

    Args:
        resolver: Custom resolver of the app.
        resolver_timeout_s: Seconds that a call of the resolver may take.
        failure_log: Log of the resolver's failures.
    """

    def __init__(
        self,
        resolver: PrincipalResolver | None = None,
        *,
        resolver_timeout_s: float = DEFAULT_TIMEOUT_S,
        failure_log: FailureLog | None = None,
    ) -> None:
        self.resolver = resolver
        self._resolver_timeout_s = resolver_timeout_s
        self._failure_log = failure_log
        self._addresses: _Built[ClientAddressResolver] | None = None
        self._api_keys: _Built[ApiKeyVerifier | None] | None = None
        self._keys: list[_Built[KeySource]] = []
        self._issuers: list[_Built[CredentialVerifier]] = []
        self._jwt: _Built[CredentialVerifier | None] | None = None
        self._identifier: _Built[RequestIdentifier] | None = None

    def build(self, section: IdentitySection) -> RequestIdentifier:
        """Return the identifier of a section; the last one if nothing has changed.

        Raises:
            ConfigError: A file of keys or the resolver is invalid, or PyJWT is needed and not
                installed. The parts that were built before are kept.
        """
        addresses = _rebuild(
            self._addresses,
            (
                section.trusted_proxies,
                section.ipv6_prefix,
                section.forwarded_header,
                section.client_address_header,
            ),
            lambda: ClientAddressResolver(
                section.trusted_proxies,
                ipv6_prefix=section.ipv6_prefix,
                forwarded=section.forwarded_header,
                address_header=section.client_address_header,
            ),
        )
        issuer_sections = section.issuer_sections
        accepts_tokens = bool(issuer_sections)
        api_keys = _rebuild(
            self._api_keys,
            section.api_keys and (section.api_keys, _digest(section.api_keys.file), accepts_tokens),
            lambda: _api_keys(section.api_keys, accepts_tokens=accepts_tokens),
        )
        keys: list[_Built[KeySource]] = []
        issuers: list[_Built[CredentialVerifier]] = []
        for each in issuer_sections:
            # Issuers of one set of keys share it.
            found = _rebuild_one([*self._keys, *keys], _keys_content(each), partial(_keys, each))
            keys.append(found)
            verify = partial(_verifier, each, found.part)
            issuers.append(_rebuild_one(self._issuers, (each, found), verify))
        jwt = _rebuild(self._jwt, issuers, lambda: _any_issuer([each.part for each in issuers]))
        identifier = _rebuild(
            self._identifier,
            (addresses, api_keys, jwt, self.resolver),
            lambda: RequestIdentifier(
                addresses.part,
                api_keys=api_keys.part,
                jwt=jwt.part,
                resolver=self.resolver,
                resolver_timeout_s=self._resolver_timeout_s,
                failure_log=self._failure_log,
            ),
        )
        self._addresses, self._api_keys = addresses, api_keys
        self._keys, self._issuers = keys, issuers
        self._jwt, self._identifier = jwt, identifier
        return identifier.part


def _rebuild(last: _Built[Part] | None, source: object, make: Callable[[], Part]) -> _Built[Part]:
    """Return the last part, or a new one if there is none or its source has changed."""
    return last if last is not None and last.source == source else _Built(source, make())


def _rebuild_one(
    last: Sequence[_Built[Part]], source: object, make: Callable[[], Part]
) -> _Built[Part]:
    """Return the last part with this source, or a new one."""
    same = next((each for each in last if each.source == source), None)
    return same or _Built(source, make())


def _api_keys(section: ApiKeysSection | None, *, accepts_tokens: bool) -> ApiKeyVerifier | None:
    if section is None:
        return None
    return ApiKeyVerifier(
        section.file,
        header=section.sent_in,
        scheme=section.scheme or "",
        accepts_tokens=accepts_tokens,
    )


def _keys_content(section: JwtSection) -> object:
    if section.secret_file is not None:
        return (section.secret_file, _digest(section.secret_file))
    return (section.jwks, _digest(Path(section.jwks or "")))


def _keys(section: JwtSection) -> "KeySource":
    if section.secret_file is not None:
        return open_secret(section.secret_file)
    return open_jwks(section.jwks or "")


def _verifier(section: JwtSection, keys: "KeySource") -> CredentialVerifier:
    return jwt_verifier(
        keys,
        issuer=section.issuer,
        audience=section.audience,
        algorithms=section.accepted_algorithms,
        tier_claim=section.tier_claim or "",
        max_header_bytes=section.max_header_bytes,
    )


def _any_issuer(issuers: Sequence[CredentialVerifier]) -> CredentialVerifier | None:
    if not issuers:
        return None
    return issuers[0] if len(issuers) == 1 else any_issuer(issuers)


def _digest(file: Path) -> bytes:
    """Return the hash of a file; empty for a URL and for a file that cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return b""

"""Request identifier: the first credential that verifies, else the client's address."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from fleetlimit.core.subject import Identity, Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.api_keys import ApiKeyVerifier
from fleetlimit.identity.client_address import ClientAddressResolver
from fleetlimit.identity.credentials import IdentityErrorReason

CredentialResolver = Callable[[Mapping[str, Any]], Awaitable[Principal | None]]
"""Returns the verified principal of an ASGI scope, or None without a credential of its kind.

Raises `IdentityError` for a credential that does not verify.
"""


class CredentialVerifier(Protocol):
    """Verifier of one kind of credential."""

    async def resolve(self, scope: Mapping[str, Any]) -> Principal | None:
        """Return the principal of an ASGI scope; see `CredentialResolver`."""
        ...


_log = logging.getLogger("fleetlimit")


class RequestIdentifier:
    """`Identifier` that checks the API key, then the bearer token, then a custom resolver.

    Args:
        client_address: Resolves the client's address.
        api_keys: Verifier of API keys, if configured.
        jwt: Verifier of bearer tokens, if configured.
        resolver: Custom resolver for any other credential. An exception other than `IdentityError`
            is logged and becomes an identity error. Its principals get the source `custom`.
    """

    def __init__(
        self,
        client_address: ClientAddressResolver,
        *,
        api_keys: ApiKeyVerifier | None = None,
        jwt: CredentialVerifier | None = None,
        resolver: CredentialResolver | None = None,
    ) -> None:
        self._client_address = client_address
        self._resolvers: list[CredentialResolver] = []
        self.known_tiers: frozenset[str] | None = None
        """Tiers that callers can have; None where tokens or a custom resolver name the tiers."""
        if jwt is None and resolver is None:
            self.known_tiers = frozenset() if api_keys is None else api_keys.known_tiers
        if api_keys is not None:
            self._resolvers.append(api_keys.resolve)
        if jwt is not None:
            self._resolvers.append(jwt.resolve)
        if resolver is not None:
            self._resolvers.append(_with_custom_source(resolver))

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return the identity of an ASGI `http` or `websocket` scope; never raises.

        Returns:
            The principal of the first credential that verifies. If none verifies, `error` is the
            error of the first one that the request presented.
        """
        address = self._client_address.resolve(scope)
        first: IdentityError | None = None
        for resolver in self._resolvers:
            try:
                principal = await resolver(scope)
            except IdentityError as error:
                first = first or error
            except Exception:  # noqa: BLE001 - a failing resolver must not fail the request
                _log.exception("identity.resolver_failed")
                first = first or IdentityError(
                    "the credential could not be verified",
                    reason=IdentityErrorReason.RESOLVER_FAILED,
                )
            else:
                if principal is not None:
                    return Identity(address, principal)
        return Identity(address, error=first)


def _with_custom_source(resolver: CredentialResolver) -> CredentialResolver:
    async def resolve(scope: Mapping[str, Any]) -> Principal | None:
        principal = await resolver(scope)
        if principal is None:
            return None
        # A custom principal must not share the source of API keys or tokens.
        return replace(principal, source="custom")

    return resolve


def jwt_verifier(
    jwks: str,
    *,
    issuer: str,
    audience: str | Sequence[str],
    algorithms: Sequence[str],
    tier_claim: str = "",
) -> CredentialVerifier:
    """Return a verifier of bearer tokens. PyJWT is imported here, because it is an extra.

    Args:
        jwks: https URL or file of the issuer's public keys.
        issuer: See `JwtVerifier`, as for the other arguments.
        audience: As above.
        algorithms: As above.
        tier_claim: As above.

    Raises:
        ConfigError: PyJWT is not installed, or an argument or the file of keys is invalid.
    """
    try:
        from fleetlimit.identity.bearer import JwtVerifier  # noqa: PLC0415 - an extra
        from fleetlimit.identity.jwks import jwks_source  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"jwt", "cryptography"}:
            raise
        raise ConfigError("`identity.jwt` needs PyJWT: pip install 'fleetlimit[jwt]'") from error
    return JwtVerifier(
        jwks_source(jwks),
        issuer=issuer,
        audience=audience,
        algorithms=algorithms,
        tier_claim=tier_claim,
    )

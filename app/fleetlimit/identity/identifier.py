"""Tells who sent a request: the first credential that verifies, else the client's address."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from fleetlimit.core.subject import Identity, Principal
from fleetlimit.errors import IdentityError
from fleetlimit.identity.api_keys import ApiKeyVerifier
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.client_address import ClientAddressResolver
from fleetlimit.identity.credentials import IdentityErrorReason

CredentialResolver = Callable[[Mapping[str, Any]], Awaitable[Principal | None]]
"""Takes an ASGI scope to a verified principal; None when it holds no credential of this kind.

It raises `IdentityError` for a credential that does not verify.
"""

_log = logging.getLogger("fleetlimit")


class RequestIdentifier:
    """Implements `Identifier` by an API key, then a Bearer token, then a resolver of one's own.

    Args:
        client_address: Finds the client's address.
        api_keys: Verifies API keys, when there are any.
        jwt: Verifies Bearer tokens, when there are any.
        resolver: Verifies any other credential. Whatever it raises is logged and becomes an error
            of the identity; its principals get the source `custom`.
    """

    def __init__(
        self,
        client_address: ClientAddressResolver,
        *,
        api_keys: ApiKeyVerifier | None = None,
        jwt: JwtVerifier | None = None,
        resolver: CredentialResolver | None = None,
    ) -> None:
        self._client_address = client_address
        self._resolvers: list[CredentialResolver] = []
        if api_keys is not None:
            self._resolvers.append(api_keys.resolve)
        if jwt is not None:
            self._resolvers.append(jwt.resolve)
        if resolver is not None:
            self._resolvers.append(_with_custom_source(resolver))

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return the identity behind an ASGI `http` or `websocket` scope; never raises.

        Returns:
            The principal of the first credential that verifies. Without one, `error` is that of
            the first credential that was presented.
        """
        address = self._client_address.resolve(scope)
        first: IdentityError | None = None
        for resolver in self._resolvers:
            try:
                principal = await resolver(scope)
            except IdentityError as error:
                first = first or error
            except Exception:  # noqa: BLE001 - a fault of a resolver must not fail the request
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
        # A name of its own kind only: it must not pass for an API key's or a token's principal.
        return replace(principal, source="custom")

    return resolve

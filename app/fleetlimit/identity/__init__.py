"""Caller identity: verified credentials, or the client's address without any.

`bearer` and `jwks` need PyJWT (extra `jwt`), so this package does not import them.
"""

from fleetlimit.identity.api_keys import ApiKeyVerifier
from fleetlimit.identity.client_address import ClientAddressResolver
from fleetlimit.identity.credentials import IdentityErrorReason
from fleetlimit.identity.identifier import (
    CredentialResolver,
    CredentialVerifier,
    PrincipalResolver,
    RequestIdentifier,
    any_issuer,
    jwt_verifier,
    open_jwks,
    open_secret,
)

__all__ = [
    "ApiKeyVerifier",
    "ClientAddressResolver",
    "CredentialResolver",
    "CredentialVerifier",
    "IdentityErrorReason",
    "PrincipalResolver",
    "RequestIdentifier",
    "any_issuer",
    "jwt_verifier",
    "open_jwks",
    "open_secret",
]

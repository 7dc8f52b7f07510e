"""Who sent a request: verified credentials first, the client's address when there are none."""

from fleetlimit.identity.api_keys import ApiKeyVerifier
from fleetlimit.identity.bearer import JwtVerifier
from fleetlimit.identity.client_address import ClientAddressResolver
from fleetlimit.identity.credentials import IdentityErrorReason
from fleetlimit.identity.identifier import CredentialResolver, RequestIdentifier
from fleetlimit.identity.jwks import JwksFile, JwksSource, JwksUrl, jwks_source

__all__ = [
    "ApiKeyVerifier",
    "ClientAddressResolver",
    "CredentialResolver",
    "IdentityErrorReason",
    "JwksFile",
    "JwksSource",
    "JwksUrl",
    "JwtVerifier",
    "RequestIdentifier",
    "jwks_source",
]

"""Who sent a request: verified credentials first, the client's address when there are none."""

from fleetlimit.identity.api_key import ApiKeys
from fleetlimit.identity.client_address import ClientAddress
from fleetlimit.identity.jwks import FileKeys, KeySource, RemoteKeys, key_source
from fleetlimit.identity.jwt import BearerTokens
from fleetlimit.identity.reasons import Reason
from fleetlimit.identity.resolver import RequestIdentifier, Resolver

__all__ = [
    "ApiKeys",
    "BearerTokens",
    "ClientAddress",
    "FileKeys",
    "KeySource",
    "Reason",
    "RemoteKeys",
    "RequestIdentifier",
    "Resolver",
    "key_source",
]

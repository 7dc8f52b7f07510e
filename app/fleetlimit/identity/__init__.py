"""Who sent a request: verified credentials first, the client's address when there are none."""

from fleetlimit.identity.api_keys import ApiKeys
from fleetlimit.identity.bearer import BearerTokens
from fleetlimit.identity.client_address import ClientAddress
from fleetlimit.identity.credentials import Reason
from fleetlimit.identity.identifier import RequestIdentifier, Resolver
from fleetlimit.identity.jwks import FileKeys, KeySource, RemoteKeys, key_source

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

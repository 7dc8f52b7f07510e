"""Who sent a request: verified credentials first, the client's address when there are none."""

from headgate.identity.api_key import ApiKeys
from headgate.identity.client_address import ClientAddress
from headgate.identity.jwks import FileKeys, KeySource, RemoteKeys, key_source
from headgate.identity.jwt import BearerTokens
from headgate.identity.reasons import Reason
from headgate.identity.resolver import RequestIdentifier, Resolver

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

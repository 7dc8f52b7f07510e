"""Schema of the `identity` section: the credentials and proxies that identify a caller."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fleetlimit.core.policy import HEADER_NAME
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file.fields import NonEmptyStr, OptionalNotNull, StrictModel

UNIX = "unix"


def _proxy(text: str) -> str:
    if text == UNIX:
        return text
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a network: write one such as 10.0.0.0/8, or unix"
        ) from None
    network = interface.network
    if network.prefixlen == 0:
        raise ConfigError(
            f"{text} would let every client choose its own address: write the networks of your "
            "proxies"
        )
    if interface.ip != network.network_address:
        raise ConfigError(f"{text} has bits set behind its prefix: write {network}")
    return str(network)


def _header(text: str) -> str:
    if not HEADER_NAME.fullmatch(text):
        raise ConfigError(f"{text!r} is not a header: write a name such as X-API-Key")
    return text


def _jwks_location(text: str) -> str:
    if "://" in text and not text.startswith("https://"):
        raise ConfigError(f"{text!r} can be forged on its way: write an https URL or a file path")
    return text


def _non_empty(algorithms: tuple[str, ...]) -> tuple[str, ...]:
    if not algorithms:
        raise ConfigError("without algorithms no token verifies: write [RS256] or leave it out")
    return algorithms


Proxy = Annotated[str, AfterValidator(_proxy)]
HeaderName = Annotated[str, AfterValidator(_header)]
JwksLocation = Annotated[NonEmptyStr, AfterValidator(_jwks_location)]
# Asymmetric algorithms only: with HS256 a public key would be used as the shared secret.
SignatureAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]


class ApiKeysSection(StrictModel):
    """API keys, stored as hashes in a file."""

    header: HeaderName = Field("X-API-Key", description="Request header that carries the key.")
    file: Path = Field(
        description="File of hashed keys with their principals and tiers; a relative path is "
        "relative to the policy file."
    )


class JwtSection(StrictModel):
    """Bearer tokens signed by a trusted issuer."""

    issuer: NonEmptyStr = Field(description="Required value of the token's `iss`.")
    audience: NonEmptyStr = Field(description="Value that the token's `aud` must be or contain.")
    jwks: JwksLocation = Field(
        description="https URL of the issuer's public keys (JWKS, RFC 7517), or a file; a "
        "relative path is relative to the policy file."
    )
    algorithms: Annotated[tuple[SignatureAlgorithm, ...], AfterValidator(_non_empty)] = Field(
        ("RS256", "ES256"), description="Accepted signature algorithms."
    )
    tier_claim: OptionalNotNull[NonEmptyStr] = Field(
        None, description="Claim that contains the caller's tier; if absent, tokens have no tier."
    )
    max_header_bytes: int = Field(
        4096,
        strict=True,
        ge=1024,
        le=65536,
        description="Longest `Authorization` header in which a token is verified; the token's own "
        "header may be a quarter of it.",
    )


class IdentitySection(StrictModel):
    """How callers are identified."""

    trusted_proxies: tuple[Proxy, ...] = Field(
        (),
        description="Networks (CIDR) of proxies whose forwarding header is trusted; `unix` for a "
        "proxy on a Unix socket.",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for",
        description="Header in which those proxies write the client; `forwarded` is RFC 7239.",
    )
    ipv6_prefix: int = Field(
        64,
        strict=True,
        ge=1,
        le=128,
        description="Bits of an IPv6 address that identify one client; a home usually has a /64.",
    )
    api_keys: OptionalNotNull[ApiKeysSection] = Field(
        None, description="API keys; if absent, none are read."
    )
    jwt: OptionalNotNull[JwtSection] = Field(
        None, description="Bearer tokens; if absent, none are read."
    )
    reject_invalid: bool = Field(
        default=False,
        strict=True,
        description="Answer 401 to a credential that does not verify, and 503 to one that cannot "
        "be verified at the moment; otherwise the request is counted by its client address.",
    )

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that this section names."""
        keys = (self.api_keys.file,) if self.api_keys else ()
        jwks = (Path(self.jwt.jwks),) if self.jwt and "://" not in self.jwt.jwks else ()
        return (*keys, *jwks)

    def with_base_dir(self, directory: Path) -> "IdentitySection":
        """Return the section with its relative paths resolved against a directory."""
        api_keys, jwt = self.api_keys, self.jwt
        if api_keys:
            api_keys = api_keys.model_copy(update={"file": directory / api_keys.file})
        if jwt and "://" not in jwt.jwks:
            jwt = jwt.model_copy(update={"jwks": str(directory / jwt.jwks)})
        return self.model_copy(update={"api_keys": api_keys, "jwt": jwt})

"""Schema of the `identity` section: the credentials and proxies that identify a caller."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from fleetlimit.core.key_parts import HEADER_NAME
from fleetlimit.errors import ConfigError
from fleetlimit.policy_file.fields import NonEmptyStr, OptionalNotNull, StrictModel

UNIX = "unix"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}", re.ASCII)
_FORWARDING = frozenset({"x-forwarded-for", "forwarded"})
"""Headers that list the addresses of all hops, which `forwarded_header` names."""


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


def _scheme(text: str) -> str:
    if not _SCHEME.fullmatch(text):
        raise ConfigError(f"{text!r} is not an authentication scheme: write Bearer")
    return text


def _address_header(text: str) -> str:
    if text.lower() in _FORWARDING:
        raise ConfigError(
            f"{text} lists the addresses of all hops: write forwarded_header: {text.lower()}"
        )
    return _header(text)


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
Scheme = Annotated[str, AfterValidator(_scheme)]
AddressHeader = Annotated[str, AfterValidator(_address_header)]
JwksLocation = Annotated[NonEmptyStr, AfterValidator(_jwks_location)]
PublicKeyAlgorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
SecretAlgorithm = Literal["HS256", "HS384", "HS512"]
SignatureAlgorithm = Literal[PublicKeyAlgorithm, SecretAlgorithm]
_SECRET_ALGORITHMS: frozenset[str] = frozenset(get_args(SecretAlgorithm))
_DEFAULT_ALGORITHMS: tuple[SignatureAlgorithm, ...] = ("RS256", "ES256")
_DEFAULT_SECRET_ALGORITHMS: tuple[SignatureAlgorithm, ...] = ("HS256",)


class ApiKeysSection(StrictModel):
    """API keys, stored as hashes in a file."""

    header: OptionalNotNull[HeaderName] = Field(
        None,
        description="Request header that carries the key; if absent, X-API-Key, or Authorization "
        "with `scheme`.",
    )
    scheme: OptionalNotNull[Scheme] = Field(
        None,
        description="Authentication scheme before the key, such as Bearer; if absent, the header "
        "is the key alone.",
    )
    file: Path = Field(
        description="File of hashed keys with their principals and tiers; a relative path is "
        "relative to the policy file."
    )

    @property
    def sent_in(self) -> str:
        """The request header that carries the key."""
        return self.header or ("Authorization" if self.scheme else "X-API-Key")


class JwtSection(StrictModel):
    """Bearer tokens signed by a trusted issuer, with its private key or with a shared secret."""

    issuer: NonEmptyStr = Field(description="Required value of the token's `iss`.")
    audience: NonEmptyStr = Field(description="Value that the token's `aud` must be or contain.")
    jwks: OptionalNotNull[JwksLocation] = Field(
        None,
        description="https URL of the issuer's public keys (JWKS, RFC 7517), or a file; a "
        "relative path is relative to the policy file.",
    )
    secret_file: OptionalNotNull[Path] = Field(
        None,
        description="File of the secret that the issuer signs with, in place of `jwks`: one line "
        "of 32 characters or more; a relative path is relative to the policy file.",
    )
    algorithms: OptionalNotNull[
        Annotated[tuple[SignatureAlgorithm, ...], AfterValidator(_non_empty)]
    ] = Field(
        None,
        description="Accepted signature algorithms; if absent, RS256 and ES256 with `jwks`, HS256 "
        "with `secret_file`.",
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

    @model_validator(mode="after")
    def _check_consistent(self) -> "JwtSection":
        if self.jwks is None and self.secret_file is None:
            raise ConfigError(
                "`jwks` is missing: add it, or secret_file for tokens that a shared secret signs"
            )
        if self.jwks is not None and self.secret_file is not None:
            raise ConfigError(
                "jwks and secret_file are keys of two kinds: keep one of them, and write the "
                "other as an entry of its own under `issuers`"
            )
        for each in self.accepted_algorithms:
            if (each in _SECRET_ALGORITHMS) != (self.secret_file is not None):
                raise ConfigError(_wrong_kind(each))
        return self

    @property
    def accepted_algorithms(self) -> tuple[SignatureAlgorithm, ...]:
        """The algorithms of the file, or those of the kind of key."""
        if self.algorithms is not None:
            return self.algorithms
        return _DEFAULT_ALGORITHMS if self.secret_file is None else _DEFAULT_SECRET_ALGORITHMS

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that this section names."""
        if self.secret_file is not None:
            return (self.secret_file,)
        return (Path(self.jwks),) if self.jwks is not None and "://" not in self.jwks else ()

    def with_base_dir(self, directory: Path) -> "JwtSection":
        """Return the section with its relative path resolved against a directory."""
        if self.secret_file is not None:
            return self.model_copy(update={"secret_file": directory / self.secret_file})
        if self.jwks is not None and "://" not in self.jwks:
            return self.model_copy(update={"jwks": str(directory / self.jwks)})
        return self


def _wrong_kind(algorithm: str) -> str:
    if algorithm in _SECRET_ALGORITHMS:
        return (
            f"{algorithm} needs a shared secret, and jwks has public keys: write secret_file in "
            "place of jwks, or algorithms such as [RS256]"
        )
    return (
        f"{algorithm} needs public keys, and secret_file has a secret: write jwks in place of "
        "secret_file, or algorithms such as [HS256]"
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
    client_address_header: OptionalNotNull[AddressHeader] = Field(
        None,
        description="Header with the one address of the client that those proxies write, such as "
        "CF-Connecting-IP or X-Real-IP, in place of `forwarded_header`.",
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
    issuers: tuple[JwtSection, ...] = Field(
        (), description="Several token issuers, each as under `jwt`, in place of it."
    )
    reject_invalid: bool = Field(
        default=False,
        strict=True,
        description="Answer 401 to a credential that does not verify, and 503 to one that cannot "
        "be verified at the moment; otherwise the request is counted by its client address.",
    )

    @model_validator(mode="after")
    def _check_consistent(self) -> "IdentitySection":
        if self.jwt is not None and self.issuers:
            raise ConfigError(
                "jwt and issuers both name issuers: write the one of jwt under `issuers` too, and "
                "remove jwt"
            )
        if len(set(self.issuers)) < len(self.issuers):
            double = next(each for each in self.issuers if self.issuers.count(each) > 1)
            raise ConfigError(
                f"`issuers` has two equal entries of {double.issuer}: remove one of them"
            )
        if self.client_address_header is not None:
            if "forwarded_header" in self.model_fields_set:
                raise ConfigError(
                    "client_address_header and forwarded_header both name the header of the "
                    "client's address: keep one of them"
                )
            if not self.trusted_proxies:
                raise ConfigError(
                    f"{self.client_address_header} is read from trusted proxies only: write the "
                    "networks of your proxies under trusted_proxies"
                )
        return self

    @property
    def issuer_sections(self) -> tuple[JwtSection, ...]:
        """The issuers of tokens, of `jwt` or of `issuers`."""
        return (self.jwt,) if self.jwt is not None else self.issuers

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that this section names."""
        keys = (self.api_keys.file,) if self.api_keys else ()
        return (*keys, *(file for each in self.issuer_sections for file in each.files))

    def with_base_dir(self, directory: Path) -> "IdentitySection":
        """Return the section with its relative paths resolved against a directory."""
        api_keys, jwt = self.api_keys, self.jwt
        if api_keys:
            api_keys = api_keys.model_copy(update={"file": directory / api_keys.file})
        if jwt:
            jwt = jwt.with_base_dir(directory)
        issuers = tuple(each.with_base_dir(directory) for each in self.issuers)
        return self.model_copy(update={"api_keys": api_keys, "jwt": jwt, "issuers": issuers})

"""Subjects: the caller and the route of a request, from which bucket keys are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.errors import IdentityError

UNMATCHED_ROUTE = "unmatched"
UNVERIFIED_TIER: Final = "(unverified)"
"""Tier of a caller whose credential did not verify, so that its tier is unknown."""
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """Verified caller.

    Args:
        name: Name of the caller; API keys, tokens and resolvers share one name space.
        tier: Plan or class of service; empty for none.
        source: How the caller was verified: `api_key`, `jwt` or `custom`.
    """

    name: str
    tier: str = ""
    source: str = "custom"


@dataclass(frozen=True, slots=True)
class KeyValues:
    """Values of one request for keys that are made from its path, or by functions of the app.

    Args:
        path: Values of path parameters by name.
        functions: Results of the functions.
    """

    path: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    functions: Mapping[PolicyFunction, str] = field(default_factory=dict)


@dataclass(slots=True)
class Subject:
    """Properties of a request that a bucket key can be made from.

    Args:
        client_address: Normalised address of the client; any text is accepted.
        principal: The verified caller, if there is one.
        route: Methods and template of the matched route, such as `POST /exports`.
        headers: Request headers that a policy's key names, by lower-case name.
        unverified: Whether a credential was presented and did not verify. The app may accept it all
            the same, so the caller is not one without a credential.
        key_values: Values for keys of the kinds `path` and `function`; None without such a key.
        key: Value that code gives for the part of the key that is a header, a path parameter or a
            function; or for the whole key of a policy without such a part. None without.
        exact_address: Address of the client that networks are compared with; empty if it is not
            certain, or if no policy needs it.
    """

    client_address: str = "unknown"
    principal: Principal | None = None
    route: str = UNMATCHED_ROUTE
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    unverified: bool = False
    key_values: KeyValues | None = None
    key: str | None = None
    exact_address: str = ""

    @property
    def tier(self) -> str:
        """Tier of the principal; empty without a credential; else `UNVERIFIED_TIER`."""
        if self.principal:
            return self.principal.tier
        return UNVERIFIED_TIER if self.unverified else ""

    @property
    def identity(self) -> str:
        """The principal's name or the client address, each in a name space of its own.

        How a principal was verified is not part of it: an API key and a token of one caller share
        the caller's buckets.
        """
        if self.principal:
            return f"principal\0{self.principal.name}"
        return f"address\0{self.client_address}"


@dataclass(slots=True)
class Identity:
    """Identity of the client that sent a request.

    Args:
        client_address: Normalised address of the client.
        principal: The verified caller, if a credential was valid.
        error: Why the credential that was presented is not valid.
    """

    client_address: str
    principal: Principal | None = None
    error: IdentityError | None = None

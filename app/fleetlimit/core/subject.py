"""Who and what a request is, as far as a limit is concerned."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from fleetlimit.errors import IdentityError

UNMATCHED_ROUTE = "unmatched"
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Principal:
    """A verified identity.

    Args:
        name: Name of the caller; API keys, tokens and resolvers share one space of names.
        tier: Plan or class of service, empty when there is none.
        source: What verified it: `api_key`, `jwt` or `custom`.
    """

    name: str
    tier: str = ""
    source: str = "custom"


class Subject(NamedTuple):
    """What the key of a bucket can be made from.

    Args:
        client_address: Normalised address of the client; any text is accepted.
        principal: The verified identity, when there is one.
        route: The matched route's methods and template, such as `POST /exports`.
        headers: The request headers that some policy's key names, by lower-case name.
    """

    client_address: str = "unknown"
    principal: Principal | None = None
    route: str = UNMATCHED_ROUTE
    headers: Mapping[str, str] = NO_HEADERS

    @property
    def tier(self) -> str:
        """The principal's tier, empty without one."""
        return self.principal.tier if self.principal else ""

    @property
    def identity(self) -> str:
        """The principal, or the client address: each in a name space of its own.

        A principal is its name, whatever verified it: one caller has one bucket behind every door.
        """
        if self.principal:
            return f"principal\0{self.principal.name}"
        return f"address\0{self.client_address}"


class Identity(NamedTuple):
    """Who sent a request.

    Args:
        client_address: The client's normalised address; always there.
        principal: The verified caller, if a credential verified.
        error: Why a credential that was presented did not verify.
    """

    client_address: str
    principal: Principal | None = None
    error: IdentityError | None = None

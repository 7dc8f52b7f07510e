"""Exemptions: requests that a policy applies to and does not limit."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from fleetlimit.core.networks import Network, is_within, parse_network
from fleetlimit.core.policy_function import PolicyFunction
from fleetlimit.core.subject import UNMATCHED_ROUTE, UNVERIFIED_TIER, Subject
from fleetlimit.errors import ConfigError

_EXAMPLE: Final = 'write Exemption(routes=["/health"])'


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Exemption:
    """Requests that are not limited: each request that one of the lists contains.

    Args:
        tiers: Tiers of verified callers.
        principals: Names of verified callers.
        networks: Networks of clients, such as `10.0.0.0/8` or `2001:db8::/32`. They are compared
            with the client's own address, also where several addresses share a bucket.
        routes: Route templates such as `/health`; a final `*` matches any suffix.

    Raises:
        ConfigError: All lists are empty, or an entry is invalid; the message says what to write.
    """

    tiers: frozenset[str]
    principals: frozenset[str]
    networks: tuple[Network, ...]
    routes: tuple[str, ...]
    _caller: bool = field(init=False, compare=False, repr=False)

    def __init__(
        self,
        *,
        tiers: Iterable[str] = (),
        principals: Iterable[str] = (),
        networks: Iterable[str] = (),
        routes: Iterable[str] = (),
    ) -> None:
        put = object.__setattr__
        put(self, "tiers", frozenset(parse_texts("tiers", tiers, _EXAMPLE)))
        put(self, "principals", frozenset(parse_texts("principals", principals, _EXAMPLE)))
        put(self, "networks", tuple(map(_network, parse_texts("networks", networks, _EXAMPLE))))
        put(self, "routes", parse_routes(routes, _EXAMPLE))
        put(self, "_caller", bool(self.tiers or self.principals))
        if UNVERIFIED_TIER in self.tiers:
            raise ConfigError(
                f"a credential that did not verify exempts nothing: remove {UNVERIFIED_TIER!r}"
            )
        if not (self._caller or self.networks or self.routes):
            raise ConfigError(
                "an exemption without entries exempts nothing: write routes, networks, tiers or "
                "principals"
            )

    def __repr__(self) -> str:
        # Sorted: the order of a set differs between processes, and names of limits contain a hash.
        lists = (
            ("tiers", sorted(self.tiers)),
            ("principals", sorted(self.principals)),
            ("networks", [str(network) for network in self.networks]),
            ("routes", [*self.routes]),
        )
        return f"Exemption({', '.join(f'{name}={each!r}' for name, each in lists if each)})"

    def includes_route(self, template: str) -> bool:
        """Return whether all requests of a route are exempt."""
        return any(
            template.startswith(route[:-1]) if route.endswith("*") else template == route
            for route in self.routes
        )

    def includes(self, subject: Subject) -> bool:
        """Return whether the requests of a subject are exempt."""
        principal = subject.principal
        if (
            self._caller
            and principal is not None
            and (principal.name in self.principals or principal.tier in self.tiers)
        ):
            return True
        if self.routes:
            route = subject.route
            template = route if route == UNMATCHED_ROUTE else route.partition(" ")[2]
            if self.includes_route(template):
                return True
        return bool(self.networks) and is_within(subject.exact_address, self.networks)


ExemptionSource = Exemption | PolicyFunction
"""What exempts requests: lists, or a function of the connection."""


def to_exemption(exempt: object) -> ExemptionSource | None:
    """Return an exemption that code writes as an `Exemption` or a function of the connection.

    Raises:
        ConfigError: It is neither; the message says what to write.
    """
    if exempt is None or isinstance(exempt, Exemption | PolicyFunction):
        return exempt
    if not callable(exempt) or isinstance(exempt, type):
        raise ConfigError(
            f"exempt={exempt!r} exempts nothing: {_EXAMPLE}, or a function of the connection that "
            "returns bool"
        )
    return PolicyFunction(exempt)


def parse_texts(name: str, values: Iterable[str], example: str) -> tuple[str, ...]:
    """Return a list of texts that code gives; one text is a list of one.

    Args:
        name: Argument of the code, for the message.
        values: Texts.
        example: Words of the message that say what to write.

    Raises:
        ConfigError: An entry is empty or not text.
    """
    # A text would be a list of its characters.
    texts = (values,) if isinstance(values, str) else tuple(values)
    for each in texts:
        if not isinstance(each, str) or not each:
            raise ConfigError(f"{name} is a list of texts, without {each!r}: {example}")
    return texts


def parse_routes(routes: Iterable[str], example: str) -> tuple[str, ...]:
    """Return a list of route templates that code gives.

    Raises:
        ConfigError: An entry is not a template; the message says what to write.
    """
    return tuple(map(_route, parse_texts("routes", routes, example)))


def _route(route: str) -> str:
    if route not in {"*", UNMATCHED_ROUTE} and not route.startswith("/"):
        raise ConfigError(f"{route!r} matches no route: write a template such as /{route}")
    if "*" in route[:-1]:
        raise ConfigError(
            f"{route!r} matches no route: `*` is allowed only at the end; write a template such as "
            "/items/{item_id}"
        )
    return route


def _network(text: str) -> Network:
    return parse_network(
        text, everyone="exempts every client: write the networks to exempt, or mode: 'off'"
    )

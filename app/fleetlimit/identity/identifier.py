"""Request identifier: the first credential that verifies, else the client's address."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.requests import HTTPConnection

from fleetlimit.core.subject import Identity, Principal
from fleetlimit.errors import ConfigError, IdentityError
from fleetlimit.identity.api_keys import ApiKeyVerifier
from fleetlimit.identity.client_address import ClientAddressResolver
from fleetlimit.identity.credentials import DEFAULT_MAX_HEADER_BYTES, IdentityErrorReason
from fleetlimit.limiter.app_function import DEFAULT_TIMEOUT_S, AppFunction
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.failure_log import FailureLog

if TYPE_CHECKING:  # it needs PyJWT, an extra
    from fleetlimit.identity.jwks import JwksSource
    from fleetlimit.identity.shared_secret import SharedSecret

CredentialResolver = Callable[[Mapping[str, Any]], Awaitable[Principal | None]]
"""Returns the verified principal of an ASGI scope, or None without a credential of its kind.

Raises `IdentityError` for a credential that does not verify.
"""
PrincipalResolver = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""The same for a custom credential, as a function of the request that the app supplies."""


class CredentialVerifier(Protocol):
    """Verifier of one kind of credential."""

    async def resolve(self, scope: Mapping[str, Any]) -> Principal | None:
        """Return the principal of an ASGI scope; see `CredentialResolver`."""
        ...


_RESOLVER_RETRY_S: Final = 1
"""Nothing is known of the resolver's recovery: as after a failure of the store."""


class RequestIdentifier:
    """`Identifier` that checks the API key, then the bearer token, then a custom resolver.

    Args:
        client_address: Resolves the client's address.
        api_keys: Verifier of API keys, if configured.
        jwt: Verifier of bearer tokens, if configured.
        resolver: Custom resolver for any other credential. An exception other than `IdentityError`
            is logged and becomes an identity error, as do a timeout and a result that is neither a
            principal nor None. Its principals get the source `custom`.
        resolver_timeout_s: Seconds that a call of the resolver may take.
        failure_log: Log of the resolver's failures.

    Raises:
        ConfigError: The resolver is not an async function of one argument.
    """

    def __init__(
        self,
        client_address: ClientAddressResolver,
        *,
        api_keys: ApiKeyVerifier | None = None,
        jwt: CredentialVerifier | None = None,
        resolver: PrincipalResolver | None = None,
        resolver_timeout_s: float = DEFAULT_TIMEOUT_S,
        failure_log: FailureLog | None = None,
    ) -> None:
        self._client_address = client_address
        self._resolvers: list[CredentialResolver] = []
        self.known_tiers: frozenset[str] | None = None
        """Tiers that callers can have; None where tokens or a custom resolver name the tiers."""
        if jwt is None and resolver is None:
            self.known_tiers = frozenset() if api_keys is None else api_keys.known_tiers
        if api_keys is not None:
            self._resolvers.append(api_keys.resolve)
        if jwt is not None:
            self._resolvers.append(jwt.resolve)
        if resolver is not None:
            self._resolvers.append(_guarded(resolver, resolver_timeout_s))
        self._failure_log = failure_log or FailureLog(MonotonicClock())

    def exact_address(self, scope: Mapping[str, Any]) -> str:
        """Return the client's own address, for networks; empty if it is not certain."""
        return self._client_address.resolve_exact(scope)

    async def identify(self, scope: Mapping[str, Any]) -> Identity:
        """Return the identity of an ASGI `http` or `websocket` scope; never raises.

        Returns:
            The principal of the first credential that verifies. If none verifies, `error` is the
            error of the first one that the request presented. An error of a service that cannot
            verify a credential at the moment comes before those of invalid credentials.
        """
        address = self._client_address.resolve(scope)
        first: IdentityError | None = None
        for resolver in self._resolvers:
            try:
                principal = await resolver(scope)
            except IdentityError as error:
                if first is None or (first.retry_after is None and error.retry_after is not None):
                    first = error
            except Exception as error:  # noqa: BLE001 - it must not fail the request
                self._failure_log.write("identity.resolver_failed", error)
                if first is None or first.retry_after is None:
                    first = IdentityError(
                        "the credential could not be verified",
                        reason=IdentityErrorReason.RESOLVER_FAILED,
                        retry_after=_RESOLVER_RETRY_S,
                    )
            else:
                if principal is not None:
                    return Identity(address, principal)
        return Identity(address, error=first)


def _guarded(resolver: PrincipalResolver, timeout_s: float) -> CredentialResolver:
    call = AppFunction(resolver, role="resolver", returns=Principal, timeout_s=timeout_s)

    async def resolve(scope: Mapping[str, Any]) -> Principal | None:
        principal = await call(HTTPConnection(scope))  # type: ignore[arg-type]  # read only here
        if principal is None:
            return None
        name, tier = principal.name, principal.tier
        if not (isinstance(name, str) and name and isinstance(tier, str)):
            raise TypeError(
                "the resolver returned a principal whose name or tier is not text: return "
                'Principal(str(user.id), user.plan or ""), with a name that is not empty'
            )
        # A custom principal must not share the source of API keys or tokens.
        return replace(principal, source="custom")

    return resolve


def open_jwks(location: str) -> "JwksSource":
    """Return the public keys of a token issuer. PyJWT is imported here, because it is an extra.

    Args:
        location: https URL or file of the keys.

    Raises:
        ConfigError: PyJWT is not installed, or the location or the file of keys is invalid.
    """
    with _naming_extra():
        from fleetlimit.identity.jwks import jwks_source  # noqa: PLC0415 - an extra
    return jwks_source(location)


def open_secret(file: Path) -> "SharedSecret":
    """Return the shared secret of a token issuer. PyJWT is imported here, because it is an extra.

    Args:
        file: File of the secret.

    Raises:
        ConfigError: PyJWT is not installed, or the file has no secret that is long enough.
    """
    with _naming_extra():
        from fleetlimit.identity.shared_secret import SharedSecret  # noqa: PLC0415 - an extra
    return SharedSecret(file)


@contextlib.contextmanager
def _naming_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"jwt", "cryptography"}:
            raise
        raise ConfigError("`identity.jwt` needs PyJWT: pip install 'fleetlimit[jwt]'") from error


def jwt_verifier(
    keys: "JwksSource | SharedSecret",
    *,
    issuer: str,
    audience: str | Sequence[str],
    algorithms: Sequence[str],
    tier_claim: str = "",
    max_header_bytes: int = DEFAULT_MAX_HEADER_BYTES,
) -> CredentialVerifier:
    """Return a verifier of bearer tokens. PyJWT is imported here, because it is an extra.

    Args:
        keys: The issuer's public keys, from `open_jwks`, or its secret, from `open_secret`.
        issuer: See `JwtVerifier`, as for the other arguments.
        audience: As above.
        algorithms: As above.
        tier_claim: As above.
        max_header_bytes: As above.

    Raises:
        ConfigError: An argument is invalid.
    """
    from fleetlimit.identity.bearer import JwtVerifier  # noqa: PLC0415 - an extra

    return JwtVerifier(
        keys,
        issuer=issuer,
        audience=audience,
        algorithms=algorithms,
        tier_claim=tier_claim,
        max_header_bytes=max_header_bytes,
    )


def any_issuer(verifiers: Sequence[CredentialVerifier]) -> CredentialVerifier:
    """Return a verifier of the tokens of several issuers.

    Args:
        verifiers: Verifiers of the issuers, from `jwt_verifier`.
    """
    from fleetlimit.identity.bearer import JwtVerifier  # noqa: PLC0415 - an extra
    from fleetlimit.identity.issuers import IssuersVerifier  # noqa: PLC0415 - an extra

    return IssuersVerifier([each for each in verifiers if isinstance(each, JwtVerifier)])

"""Hash of one caller, for the search in logs, traces and the list of the most denied callers."""

import asyncio
from dataclasses import dataclass
from ipaddress import ip_address

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError, KeySecretError, StoreError


@dataclass(frozen=True, slots=True)
class CallerHash:
    """Hash of a caller.

    Args:
        text: The hash.
        warnings: Why the replicas may hash the caller to another text.
    """

    text: str
    warnings: tuple[str, ...]


def hash_caller(
    settings: Settings, *, principal: str | None = None, address: str | None = None
) -> CallerHash:
    """Return the hash of a principal, or of the address of a caller without a credential.

    Args:
        settings: Settings with the key secret and the store of the replicas, and the policy file
            with the prefix of IPv6 addresses.
        principal: Name of the principal.
        address: Address, in place of a principal.

    Raises:
        KeySecretError: The replicas use another secret.
        ConfigError: A setting, the name or the address is invalid.
    """
    if principal == "":
        raise ConfigError("the principal is empty: write its name")
    if address is not None:
        try:
            ip_address(address)
        except ValueError:
            raise ConfigError(
                f"{address!r} is not an IP address: write one, as 192.0.2.1"
            ) from None
    return asyncio.run(_hash_caller(settings, principal, address))


async def _hash_caller(
    settings: Settings, principal: str | None, address: str | None
) -> CallerHash:
    fleetlimit = Fleetlimit(settings=settings)
    fleetlimit.activate_policies()
    try:
        if principal is not None:
            subject = Subject(principal=Principal(principal))
        else:
            identity = await fleetlimit.http_limiter.identifier.identify(
                {"type": "http", "headers": [], "client": (address, 0)}
            )
            subject = Subject(identity.client_address)
        warning = await _unverified_secret(fleetlimit)
        text = fleetlimit.limiter.subject_hash(subject)
        return CallerHash(text, (warning,) if warning else ())
    finally:
        await fleetlimit.aclose()


async def _unverified_secret(fleetlimit: Fleetlimit) -> str | None:
    """Return why it is not known that replicas use the secret of the settings; None if they do.

    Raises:
        KeySecretError: They use another one.
    """
    if not fleetlimit.limiter.store.shared:
        if reveal(fleetlimit.settings.key_secret) is None:
            return (
                "hashed without a secret: set FLEETLIMIT_KEY_SECRET to that of the replicas, and "
                "FLEETLIMIT_STORE to compare it with theirs"
            )
        return None
    try:
        await fleetlimit.limiter.membership.require_fleet()
    except StoreError as error:
        return f"the secret was not compared with that of the replicas: {error}"
    except KeySecretError:
        raise
    except ConfigError as error:
        return str(error)
    return None

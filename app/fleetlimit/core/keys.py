"""Keys in the store: versioned, of bounded length, and without identities in clear text.

The key of a bucket is `fl2:{<tag>}:<policy>:<limit>[:<hash>]`. The tag is the hash of the first
component of the policy's key: buckets of one principal share a Cluster slot, whatever their policy,
and buckets of different principals are spread over all slots. `2` is the version of the layout of
keys and values.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError

_HASH_BYTES = 12
"""96 bits: the chance of a collision among a million identities is below 1e-17."""
MIN_SECRET_BYTES = 16
_CACHE_SIZE = 16_384
"""Cached digests: a few megabytes, because each text is at most `MAX_CACHED_CHARS` long."""
MAX_CACHED_CHARS: Final = 256
"""Longest text whose digest or plan is cached. Clients choose the length of some texts."""


_GIVEN_PREFIXES: Final = {
    KeyKind.HEADER: "h\0",
    KeyKind.PATH: "v\0",
    KeyKind.FUNCTION: "f\0",
}
"""Parts of a key that code can give without a request, and the name space of each."""


class KeyScheme:
    """Names of buckets, and hashes of identities.

    Args:
        secret: Key of HMAC-SHA-256 (RFC 2104), the same for all replicas. None for plain SHA-256,
            from which an identity can be guessed by hashing candidates.
        prefix: Start of every key, for services that share one store.

    Raises:
        ConfigError: The secret is too short or the prefix has braces.
    """

    def __init__(self, secret: bytes | None = None, *, prefix: str = "fl") -> None:
        if secret is not None and len(secret) < MIN_SECRET_BYTES:
            raise ConfigError(f"the key secret needs at least {MIN_SECRET_BYTES} bytes")
        if not prefix or len(prefix) > 32 or set("{}\n\r ") & set(prefix):  # noqa: PLR2004
            raise ConfigError("the key prefix is 1 to 32 characters, without braces and spaces")
        self._mac = hmac.new(secret, digestmod=hashlib.sha256) if secret else hashlib.sha256()
        self.prefix = prefix
        self._prefix = f"{prefix}2:"
        # A caller is hashed for its bucket and for its log lines, in each of its requests.
        self._cached_digest = lru_cache(_CACHE_SIZE)(self._digest)
        self._cached_principal_digest = lru_cache(_CACHE_SIZE)(self._principal_digest)

    @property
    def replicas_key(self) -> str:
        """Key of the set of live replicas."""
        return self._prefix + "{fleet}:replicas"

    @property
    def reports_key(self) -> str:
        """Key of the usage reports of all replicas."""
        return self._prefix + "{fleet}:reports"

    @property
    def auditors_key(self) -> str:
        """Key of the set of replicas of which the first one compares the reports."""
        return self._prefix + "{fleet}:auditors"

    @property
    def epoch_key(self) -> str:
        """Key of a random value that is lost when the store loses its state."""
        return self._prefix + "{fleet}:epoch"

    @property
    def secrets_key(self) -> str:
        """Key of the set of fingerprints of the replicas' secrets."""
        return self._prefix + "{fleet}:secrets"

    @property
    def fingerprint(self) -> str:
        """Hash that is the same for two schemes with the same secret; it does not disclose it."""
        return self._digest("fingerprint")

    def digest(self, text: str) -> str:
        """Return a hash of 16 characters of a text of any length."""
        return self._cached_digest(text) if len(text) <= MAX_CACHED_CHARS else self._digest(text)

    def _digest(self, text: str) -> str:
        mac = self._mac.copy()
        mac.update(text.encode("utf-8", "surrogatepass"))
        return base64.urlsafe_b64encode(mac.digest()[:_HASH_BYTES]).decode()

    def subject_hash(self, subject: Subject) -> str:
        """Return the hash of the caller, for the store, logs and traces."""
        principal = subject.principal
        if principal is not None and len(principal.name) <= MAX_CACHED_CHARS:
            # Cached by the name, so that a hit does not even format the text to hash.
            return self._cached_principal_digest(principal.name)
        return self.digest(f"p\0{subject.identity}")

    def _principal_digest(self, name: str) -> str:
        return self._digest(f"p\0{Subject(principal=Principal(name)).identity}")

    def bucket_keys(self, policy: Policy, subject: Subject, quotas: tuple[Quota, ...]) -> list[str]:
        """Return the key of each quota's bucket for this subject."""
        first, *others = policy.key
        if subject.key is not None:
            value, *values = _values_with_given(policy, subject)
            tag = self.digest(value)
        else:
            if first.kind is KeyKind.PRINCIPAL:
                tag = self.subject_hash(subject)
            else:
                tag = self.digest(_value(first, policy, subject))
            values = [_value(part, policy, subject) for part in others]
        start = f"{self._prefix}{{{tag}}}:{policy.name}:"
        end = f":{self.digest(_join(values))}" if values else ""
        return [f"{start}{quota.name}{end}" for quota in quotas]

    def rollout_percentile(self, policy: Policy, subject: Subject) -> int:
        """Return a number from 0 to 99, constant for a key and evenly distributed over keys."""
        if subject.key is not None:
            values = _values_with_given(policy, subject)
        else:
            values = [_value(part, policy, subject) for part in policy.key]
        digest = hashlib.sha256(_join(values).encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()[:8]) % 100


@dataclass(frozen=True, slots=True)
class BucketKey:
    """Components of a bucket's key.

    Args:
        policy: Name of the policy.
        quota_name: Name of the quota within the policy.
        caller: Hashes of the values that the bucket is keyed on.
    """

    policy: str
    quota_name: str
    caller: str


def parse_bucket_key(key: str) -> BucketKey:
    """Return the components of a key that `KeyScheme.bucket_keys` made."""
    start, _, end = key.partition("}:")
    tag = start[start.index("{") + 1 :]
    # Names of policies and quotas contain no colon.
    policy, quota_name, *others = end.split(":", 2)
    return BucketKey(policy, quota_name, f"{tag}:{others[0]}" if others else tag)


def _join(parts: list[str]) -> str:
    """Join texts by NUL and escape it in them, so that different lists give different texts."""
    return "\0".join(part.replace("\1", "\1\1").replace("\0", "\1\2") for part in parts)


def _values_with_given(policy: Policy, subject: Subject) -> list[str]:
    """Return the values of a key of which code gives the part that a request would have.

    Raises:
        ConfigError: A request would have several parts.
    """
    given = [part for part in policy.key if part.kind in _GIVEN_PREFIXES]
    if len(given) > 1:
        raise ConfigError(
            f"policy {policy.name} is keyed on {' and '.join(map(str, given))}, so one key is not "
            "enough: write a policy with one of them"
        )
    if not given:
        return [f"k\0{subject.key}"]
    return [
        f"{_GIVEN_PREFIXES[part.kind]}{subject.key}"
        if part.kind in _GIVEN_PREFIXES
        else _value(part, policy, subject)
        for part in policy.key
    ]


def _value(part: KeyPart, policy: Policy, subject: Subject) -> str:
    match part.kind:
        case KeyKind.PRINCIPAL:
            return f"p\0{subject.identity}"
        case KeyKind.CLIENT_ADDRESS:
            return f"p\0address\0{subject.client_address}"
        case KeyKind.HEADER | KeyKind.PATH:
            return _text_value(part, subject)
        case KeyKind.FUNCTION:
            return f"f\0{_function_value(part, policy, subject)}"
        case KeyKind.ROUTE:
            return f"r\0{subject.route}"
        case KeyKind.GLOBAL:  # pragma: no branch - mypy proves that the match is exhaustive
            return f"g\0{policy.name}"


def _text_value(part: KeyPart, subject: Subject) -> str:
    if part.kind is KeyKind.HEADER:
        value = subject.headers.get(part.name)
    else:
        value = subject.key_values.path.get(part.name) if subject.key_values else None
    # A request without the header shares the bucket of its caller, not one of all such. A path
    # without the parameter is one that no route takes.
    return f"p\0{subject.identity}" if value is None else f"{_GIVEN_PREFIXES[part.kind]}{value}"


def _function_value(part: KeyPart, policy: Policy, subject: Subject) -> str:
    """Return the function's result for this request.

    Raises:
        ConfigError: There is no request that the function could be called with.
    """
    values = subject.key_values
    found = None if values is None else values.functions.get(part.function)  # type: ignore[arg-type]  # None is no key
    if found is None:
        raise ConfigError(
            f"policy {policy.name} is keyed on the function {part.name} of the connection, and "
            "this check has none: write key=... with the value"
        )
    return found

"""Names of keys in the store: versioned, bounded, and without anybody's identity in clear.

A bucket's key is `fl1:{<tag>}:<policy>:<limit>[:<rest>]`. The tag is the hash of the first
component of the policy's key, so that all policies kept per principal meet in one Cluster slot,
and no two principals need to. `1` is the version of the layout of keys and values.
"""

import base64
import hashlib
import hmac
from functools import lru_cache

from fleetlimit.core.policy import KeyKind, KeyPart, Policy
from fleetlimit.core.quota import Quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError

_HASH_BYTES = 12
"""96 bits: among a million identities the chance of any two colliding is below 1e-17."""
MIN_SECRET_BYTES = 16
_CACHE_SIZE = 16_384
MAX_CACHED_CHARS = 256
"""Hashes that are kept: those of the callers who come often, in at most a few megabytes."""


class KeyScheme:
    """Names buckets, and identities where they must be named.

    Args:
        secret: Key of HMAC-SHA-256 (RFC 2104), the same for all replicas; None for plain
            SHA-256, which hides nothing from somebody who can guess the identity.
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
        self._prefix = f"{prefix}1:"
        # A caller is hashed for its bucket, for its log lines, and with each of its requests.
        self._cached_digest = lru_cache(_CACHE_SIZE)(self._digest)
        self._cached_principal_digest = lru_cache(_CACHE_SIZE)(self._principal_digest)

    @property
    def replicas_key(self) -> str:
        """Key of the set of live replicas."""
        return self._prefix + "{fleet}:replicas"

    @property
    def reports_key(self) -> str:
        """Key of what each replica says that it let in."""
        return self._prefix + "{fleet}:statements"

    @property
    def auditors_key(self) -> str:
        """Key of the set of replicas of which the first compares the statements."""
        return self._prefix + "{fleet}:auditors"

    @property
    def epoch_key(self) -> str:
        """Key of the random mark that is lost when the store loses its state."""
        return self._prefix + "{fleet}:epoch"

    def digest(self, text: str) -> str:
        """Return 16 characters that stand for the text, whatever its length."""
        # Clients can send long texts: what is kept must not grow with them.
        return self._cached_digest(text) if len(text) <= MAX_CACHED_CHARS else self._digest(text)

    def _digest(self, text: str) -> str:
        mac = self._mac.copy()
        mac.update(text.encode("utf-8", "surrogatepass"))
        return base64.urlsafe_b64encode(mac.digest()[:_HASH_BYTES]).decode()

    def subject_hash(self, subject: Subject) -> str:
        """Return what stands for a caller in the store, in logs and in traces."""
        principal = subject.principal
        if principal is not None and len(principal.name) <= MAX_CACHED_CHARS:
            # By the name alone, which is at hand: not even the text is put together anew.
            return self._cached_principal_digest(principal.name)
        return self.digest(f"p\0{subject.identity}")

    def _principal_digest(self, name: str) -> str:
        return self._digest(f"p\0{Subject(principal=Principal(name)).identity}")

    def bucket_keys(self, policy: Policy, subject: Subject, quotas: tuple[Quota, ...]) -> list[str]:
        """Return the key of each quota's bucket for this subject."""
        first, *rest = policy.key
        if first.kind is KeyKind.PRINCIPAL:
            tag = self.subject_hash(subject)
        else:
            tag = self.digest(_value(first, policy, subject))
        start = f"{self._prefix}{{{tag}}}:{policy.name}:"
        values = [_value(part, policy, subject) for part in rest]
        end = f":{self.digest(_join(values))}" if values else ""
        return [f"{start}{quota.name}{end}" for quota in quotas]

    def rollout_percentile(self, policy: Policy, subject: Subject) -> int:
        """Return a number from 0 to 99, stable for the policy's key, evenly spread."""
        values = [_value(part, policy, subject) for part in policy.key]
        digest = hashlib.sha256(_join(values).encode("utf-8", "surrogatepass"))
        return int.from_bytes(digest.digest()[:8]) % 100


def caller_of(bucket: str) -> str:
    """Return the hashes in a bucket's key, which stand for whom it is kept per."""
    start, _, rest = bucket.partition("}:")
    tag = start[start.index("{") + 1 :]
    # Neither a policy's name nor a limit's has a colon.
    others = rest.split(":", 2)[2:]
    return f"{tag}:{others[0]}" if others else tag


def policy_of(bucket: str) -> str:
    """Return the name of the policy in a bucket's key."""
    return bucket.partition("}:")[2].partition(":")[0]


def limit_of(bucket: str) -> str:
    """Return the name of the limit in a bucket's key."""
    return bucket.partition("}:")[2].split(":")[1]


def _join(parts: list[str]) -> str:
    """Join components by NUL so that no two lists of components become one text."""
    return "\0".join(part.replace("\1", "\1\1").replace("\0", "\1\2") for part in parts)


def _value(part: KeyPart, policy: Policy, subject: Subject) -> str:
    match part.kind:
        case KeyKind.PRINCIPAL:
            return f"p\0{subject.identity}"
        case KeyKind.CLIENT_ADDRESS:
            return f"p\0address\0{subject.client_address}"
        case KeyKind.HEADER:
            value = subject.headers.get(part.name)
            # Without the header the caller is one of many at this address, not a caller of its own.
            return f"h\0{value}" if value is not None else f"p\0{subject.identity}"
        case KeyKind.ROUTE:
            return f"r\0{subject.route}"
        case KeyKind.GLOBAL:  # pragma: no branch - there is no other kind, as mypy proves
            return f"g\0{policy.name}"

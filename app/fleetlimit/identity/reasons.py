"""Why a credential did not verify: the words that `IdentityError.reason` can be."""

from enum import StrEnum


class Reason(StrEnum):
    """A short stable word for logs and responses, bounded in number."""

    ALGORITHM = "algorithm"
    AUDIENCE = "audience"
    CLAIMS = "claims"
    EXPIRED = "expired"
    ISSUER = "issuer"
    KEYS_UNAVAILABLE = "keys_unavailable"
    MALFORMED = "malformed"
    NOT_YET_VALID = "not_yet_valid"
    RESOLVER_FAILED = "resolver_failed"
    SIGNATURE = "signature"
    TOO_LONG = "too_long"
    UNKNOWN_API_KEY = "unknown_api_key"
    UNKNOWN_KEY = "unknown_key"

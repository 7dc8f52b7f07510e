"""Rate limiting for FastAPI that holds across every replica.

Public names are imported on first use (PEP 562), so that `import fleetlimit` imports no framework
and no driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleetlimit.bootstrap.fleetlimit import Fleetlimit
    from fleetlimit.bootstrap.settings import Settings
    from fleetlimit.core.decision import (
        BucketStatus,
        Decision,
        LimitResult,
        Outcome,
        PolicyResult,
        Source,
    )
    from fleetlimit.core.policy import (
        KeyKind,
        KeyPart,
        Match,
        Mode,
        OnStoreError,
        Policy,
        PolicySet,
    )
    from fleetlimit.core.quota import (
        Algorithm,
        Limit,
        Quota,
    )
    from fleetlimit.core.subject import (
        Principal,
        Subject,
    )
    from fleetlimit.errors import (
        BucketCorrupt,
        ConfigError,
        CostError,
        DocumentError,
        FleetlimitError,
        IdentityError,
        KeySecretError,
        StoreError,
        StoreRejected,
        StoreUnavailable,
    )
    from fleetlimit.identity.identifier import PrincipalResolver
    from fleetlimit.limiter.events import (
        AuditReported,
        BreakerChanged,
        BreakerState,
        CheckCancelled,
        CheckDecided,
        Event,
        KeySecretsCounted,
        Observer,
        OvershootFound,
        PoliciesLoaded,
        PoliciesRejected,
        PolicyAudit,
        ReplicasCounted,
        RouteRewritten,
        StoreFailed,
        StoreJoined,
        StoreServerChanged,
        StoreStateLost,
    )
    from fleetlimit.limiter.limiter import Limiter
    from fleetlimit.limiter.reservation import Reservation
    from fleetlimit.strict_yaml import DocumentErrors
    from fleetlimit.web.dependency import (
        ConcurrencyLimit,
        PolicyLimit,
        RateLimit,
        rate_limit,
    )
    from fleetlimit.web.exceptions import (
        CostTooLarge,
        CredentialsUnverified,
        InvalidCredentials,
        RateLimitExceeded,
        RequestRejected,
    )
    from fleetlimit.web.middleware import RateLimitMiddleware
    from fleetlimit.web.ratelimit_headers import HeaderFormat
    from fleetlimit.web.responses import RATE_LIMIT_RESPONSES

_NAMES_BY_MODULE = {
    "bootstrap.fleetlimit": ("Fleetlimit",),
    "bootstrap.settings": ("Settings",),
    "core.decision": (
        "BucketStatus",
        "Decision",
        "LimitResult",
        "Outcome",
        "PolicyResult",
        "Source",
    ),
    "core.policy": ("KeyKind", "KeyPart", "Match", "Mode", "OnStoreError", "Policy", "PolicySet"),
    "core.quota": ("Algorithm", "Limit", "Quota"),
    "core.subject": ("Principal", "Subject"),
    "errors": (
        "BucketCorrupt",
        "ConfigError",
        "CostError",
        "DocumentError",
        "FleetlimitError",
        "IdentityError",
        "KeySecretError",
        "StoreError",
        "StoreRejected",
        "StoreUnavailable",
    ),
    "identity.identifier": ("PrincipalResolver",),
    "limiter.events": (
        "AuditReported",
        "BreakerChanged",
        "BreakerState",
        "CheckCancelled",
        "CheckDecided",
        "Event",
        "KeySecretsCounted",
        "Observer",
        "OvershootFound",
        "PoliciesLoaded",
        "PoliciesRejected",
        "PolicyAudit",
        "ReplicasCounted",
        "RouteRewritten",
        "StoreFailed",
        "StoreJoined",
        "StoreServerChanged",
        "StoreStateLost",
    ),
    "limiter.limiter": ("Limiter",),
    "limiter.reservation": ("Reservation",),
    "strict_yaml": ("DocumentErrors",),
    "web.dependency": ("ConcurrencyLimit", "PolicyLimit", "RateLimit", "rate_limit"),
    "web.exceptions": (
        "CostTooLarge",
        "CredentialsUnverified",
        "InvalidCredentials",
        "RateLimitExceeded",
        "RequestRejected",
    ),
    "web.middleware": ("RateLimitMiddleware",),
    "web.ratelimit_headers": ("HeaderFormat",),
    "web.responses": ("RATE_LIMIT_RESPONSES",),
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}

__all__ = [
    "RATE_LIMIT_RESPONSES",
    "Algorithm",
    "AuditReported",
    "BreakerChanged",
    "BreakerState",
    "BucketCorrupt",
    "BucketStatus",
    "CheckCancelled",
    "CheckDecided",
    "ConcurrencyLimit",
    "ConfigError",
    "CostError",
    "CostTooLarge",
    "CredentialsUnverified",
    "Decision",
    "DocumentError",
    "DocumentErrors",
    "Event",
    "Fleetlimit",
    "FleetlimitError",
    "HeaderFormat",
    "IdentityError",
    "InvalidCredentials",
    "KeyKind",
    "KeyPart",
    "KeySecretError",
    "KeySecretsCounted",
    "Limit",
    "LimitResult",
    "Limiter",
    "Match",
    "Mode",
    "Observer",
    "OnStoreError",
    "Outcome",
    "OvershootFound",
    "PoliciesLoaded",
    "PoliciesRejected",
    "Policy",
    "PolicyAudit",
    "PolicyLimit",
    "PolicyResult",
    "PolicySet",
    "Principal",
    "PrincipalResolver",
    "Quota",
    "RateLimit",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "ReplicasCounted",
    "RequestRejected",
    "Reservation",
    "RouteRewritten",
    "Settings",
    "Source",
    "StoreError",
    "StoreFailed",
    "StoreJoined",
    "StoreRejected",
    "StoreServerChanged",
    "StoreStateLost",
    "StoreUnavailable",
    "Subject",
    "rate_limit",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would otherwise accept any name.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_BY_NAME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_BY_NAME[name]}"), name)
        # Later uses find the name without this function.
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

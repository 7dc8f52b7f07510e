"""Rate limiting for FastAPI that holds across every replica.

Public names are imported on first use (PEP 562), so that `import fleetlimit` imports no framework
and no driver.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fleetlimit.bootstrap.fleetlimit import Fleetlimit
    from fleetlimit.bootstrap.openapi_export import document_limits
    from fleetlimit.bootstrap.settings import Settings
    from fleetlimit.core.decision import (
        BucketStatus,
        Decision,
        LimitResult,
        Outcome,
        PolicyResult,
        Source,
    )
    from fleetlimit.core.exemption import Exemption
    from fleetlimit.core.key_parts import KeyKind, KeyPart
    from fleetlimit.core.limit import Limit
    from fleetlimit.core.policy import Match, Mode, OnStoreError, Policy
    from fleetlimit.core.policy_set import PolicySet
    from fleetlimit.core.quota import Algorithm, Quota
    from fleetlimit.core.subject import (
        Principal,
        Subject,
    )
    from fleetlimit.core.usage import Usage
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
        CallerLimitsFailed,
        CheckCancelled,
        CheckDecided,
        Event,
        KeySecretsCounted,
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
        UsageUnread,
        UsageUnreadReason,
    )
    from fleetlimit.limiter.limiter import Limiter
    from fleetlimit.limiter.observers import Observer
    from fleetlimit.limiter.provided_limits import LimitsProvider
    from fleetlimit.limiter.reservation import Reservation
    from fleetlimit.strict_yaml import DocumentErrors
    from fleetlimit.web.caller import Caller, DepCaller, DepLimiter, get_caller
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
    from fleetlimit.web.manual_limiter import ManualLimiter, limited
    from fleetlimit.web.middleware import RateLimitMiddleware
    from fleetlimit.web.ratelimit_headers import HeaderFormat
    from fleetlimit.web.rejections import OnRejected, ProblemResponse
    from fleetlimit.web.responses import RATE_LIMIT_RESPONSES, RejectionCause
    from fleetlimit.web.usage_router import CallerUsage, LimitUsage, usage_router

_NAMES_BY_MODULE = {
    "bootstrap.fleetlimit": ("Fleetlimit",),
    "bootstrap.openapi_export": ("document_limits",),
    "bootstrap.settings": ("Settings",),
    "core.decision": (
        "BucketStatus",
        "Decision",
        "LimitResult",
        "Outcome",
        "PolicyResult",
        "Source",
    ),
    "core.exemption": ("Exemption",),
    "core.key_parts": ("KeyKind", "KeyPart"),
    "core.policy": ("Match", "Mode", "OnStoreError", "Policy"),
    "core.policy_set": ("PolicySet",),
    "core.limit": ("Limit",),
    "core.quota": ("Algorithm", "Quota"),
    "core.subject": ("Principal", "Subject"),
    "core.usage": ("Usage",),
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
    "limiter.provided_limits": ("LimitsProvider",),
    "limiter.observers": ("Observer",),
    "limiter.events": (
        "AuditReported",
        "BreakerChanged",
        "BreakerState",
        "CallerLimitsFailed",
        "CheckCancelled",
        "CheckDecided",
        "Event",
        "KeySecretsCounted",
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
        "UsageUnread",
        "UsageUnreadReason",
    ),
    "limiter.limiter": ("Limiter",),
    "limiter.reservation": ("Reservation",),
    "strict_yaml": ("DocumentErrors",),
    "web.caller": ("Caller", "DepCaller", "DepLimiter", "get_caller"),
    "web.dependency": ("ConcurrencyLimit", "PolicyLimit", "RateLimit", "rate_limit"),
    "web.exceptions": (
        "CostTooLarge",
        "CredentialsUnverified",
        "InvalidCredentials",
        "RateLimitExceeded",
        "RequestRejected",
    ),
    "web.manual_limiter": ("ManualLimiter", "limited"),
    "web.middleware": ("RateLimitMiddleware",),
    "web.ratelimit_headers": ("HeaderFormat",),
    "web.rejections": ("OnRejected", "ProblemResponse"),
    "web.responses": ("RATE_LIMIT_RESPONSES", "RejectionCause"),
    "web.usage_router": ("CallerUsage", "LimitUsage", "usage_router"),
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
    "Caller",
    "CallerLimitsFailed",
    "CallerUsage",
    "CheckCancelled",
    "CheckDecided",
    "ConcurrencyLimit",
    "ConfigError",
    "CostError",
    "CostTooLarge",
    "CredentialsUnverified",
    "Decision",
    "DepCaller",
    "DepLimiter",
    "DocumentError",
    "DocumentErrors",
    "Event",
    "Exemption",
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
    "LimitUsage",
    "Limiter",
    "LimitsProvider",
    "ManualLimiter",
    "Match",
    "Mode",
    "Observer",
    "OnRejected",
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
    "ProblemResponse",
    "Quota",
    "RateLimit",
    "RateLimitExceeded",
    "RateLimitMiddleware",
    "RejectionCause",
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
    "Usage",
    "UsageUnread",
    "UsageUnreadReason",
    "document_limits",
    "get_caller",
    "limited",
    "rate_limit",
    "usage_router",
]


if not TYPE_CHECKING:
    # Hidden from type checkers, which would otherwise accept any name.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_BY_NAME:
            if not name.startswith("__"):
                advice = import_module(f"{__name__}.call_advice").OTHER_LIMITERS.get(name)
                if advice is not None:
                    # An `AttributeError` would lose its text in `from fleetlimit import ...`.
                    raise ImportError(f"fleetlimit has no {name}: {advice}")
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_BY_NAME[name]}"), name)
        # Later uses find the name without this function.
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

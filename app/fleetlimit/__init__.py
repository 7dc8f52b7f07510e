"""Rate limiting for FastAPI that holds across every replica, and shows that it does."""

from fleetlimit.bootstrap.fleetlimit import Fleetlimit, open_default
from fleetlimit.core.decision import Decision, Outcome
from fleetlimit.core.policy import Policy, PolicySet
from fleetlimit.core.quota import Quota, concurrency_quota, rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import (
    ConfigError,
    CostError,
    FleetlimitError,
    IdentityError,
    StoreError,
)
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.strict_yaml import DocumentErrors
from fleetlimit.web.dependency import RateLimit, rate_limit
from fleetlimit.web.exceptions import Refused
from fleetlimit.web.http_limiter import DefaultGate
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.responses import RESPONSES

# The web's parts know no store and no settings; here they learn how a gate is opened.
DefaultGate.open = staticmethod(open_default)

__all__ = [
    "RESPONSES",
    "ConfigError",
    "CostError",
    "Decision",
    "DocumentErrors",
    "Fleetlimit",
    "FleetlimitError",
    "IdentityError",
    "Limiter",
    "Outcome",
    "Policy",
    "PolicySet",
    "Principal",
    "Quota",
    "RateLimit",
    "RateLimitMiddleware",
    "Refused",
    "Reservation",
    "StoreError",
    "Subject",
    "concurrency_quota",
    "rate_limit",
    "rate_quota",
]

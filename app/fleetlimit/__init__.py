"""Rate limiting for FastAPI that holds across every replica, and shows that it does."""

from fleetlimit.bootstrap.fleetlimit import Fleetlimit, open_limiter_from_env
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
from fleetlimit.web.exceptions import RequestRejected
from fleetlimit.web.http_limiter import DefaultGate
from fleetlimit.web.middleware import RateLimitMiddleware
from fleetlimit.web.responses import RATE_LIMIT_RESPONSES

# The web's parts know no store and no settings; here they learn how a gate is opened.
DefaultGate.open = staticmethod(open_limiter_from_env)

__all__ = [
    "RATE_LIMIT_RESPONSES",
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
    "RequestRejected",
    "Reservation",
    "StoreError",
    "Subject",
    "concurrency_quota",
    "rate_limit",
    "rate_quota",
]

"""Rate limiting for FastAPI that holds across every replica, and shows that it does."""

from headgate.core.decision import Decision, Outcome
from headgate.core.errors import (
    ConfigError,
    CostError,
    HeadgateError,
    IdentityError,
    StoreError,
)
from headgate.core.policy import Policy, PolicySet
from headgate.core.quota import Quota, concurrency_quota, rate_quota
from headgate.core.subject import Principal, Subject
from headgate.documents import DocumentErrors
from headgate.limiter.limiter import Limiter
from headgate.limiter.reservation import Reservation
from headgate.server.headgate import Headgate, open_default
from headgate.web.dependency import RateLimit, rate_limit
from headgate.web.gate import DefaultGate
from headgate.web.middleware import RateLimitMiddleware
from headgate.web.problem import RESPONSES
from headgate.web.refuse import Refused

# The web's parts know no store and no settings; here they learn how a gate is opened.
DefaultGate.open = staticmethod(open_default)

__all__ = [
    "RESPONSES",
    "ConfigError",
    "CostError",
    "Decision",
    "DocumentErrors",
    "Headgate",
    "HeadgateError",
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

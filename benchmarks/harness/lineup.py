"""Contenders: the apps that are measured, and how each one starts."""

from dataclasses import dataclass, replace
from typing import Final

OWN: Final = ""
"""The environment that runs the benchmark itself."""
COMPILED: Final = "compiled"
"""The environment with Fleetlimit's compiled wheel."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One measured app.

    Args:
        name: Name in the results.
        module: Module in the package `contenders`.
        environment: Pinned environment that runs it; `OWN` for the benchmark's own.
        policies: Name of Fleetlimit's policy file; empty for none.
        served: Whether `fleetlimit serve` runs the app instead of uvicorn.
        variables: Further environment variables.
    """

    name: str
    module: str
    environment: str = OWN
    policies: str = ""
    served: bool = False
    variables: tuple[tuple[str, str], ...] = ()


BARE: Final = Contender("bare", "bare")
FLOOR: Final = Contender("floor", "floor")
RAW: Final = Contender("raw", "raw")
REFUSING: Final = Contender("refusing", "refusing")
MIDDLEWARE: Final = Contender("fleetlimit (middleware)", "fleetlimit_middleware", policies="one")
DEPENDENCY: Final = Contender("fleetlimit (dependency)", "fleetlimit_dependency", policies="one")
PREFETCHING: Final = Contender(
    "fleetlimit (middleware, prefetch: auto)", "fleetlimit_middleware", policies="auto"
)
THREE: Final = Contender("fleetlimit (three limits)", "fleetlimit_middleware", policies="three")
SERVED: Final = Contender("fleetlimit serve", "bare", policies="one", served=True)
_TRACES: Final = (
    ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
    ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
)


def _telemetry(label: str, module: str, *variables: tuple[str, str]) -> Contender:
    name = f"{MIDDLEWARE.name}, {label}"
    return replace(MIDDLEWARE, name=name, module=module, variables=variables)


TRACED: Final = Contender(
    "fleetlimit serve, traced 1 %",
    "bare",
    policies="one",
    served=True,
    variables=_TRACES,
)
MIDDLEWARE_TRACED: Final = _telemetry(
    "traced 1 %",
    "fleetlimit_traced",
    *_TRACES,
    # Without these, most exports happen between the turns of the contender, where their CPU is not
    # measured.
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "64"),
    ("OTEL_BSP_SCHEDULE_DELAY", "60000"),
)
TELEMETRY: Final = (
    _telemetry("no audit", MIDDLEWARE.module, ("FLEETLIMIT_AUDIT_CALLERS", "0")),
    _telemetry("metrics twice", "fleetlimit_twice", ("BENCH_TWICE", "metrics")),
    _telemetry("logs twice", "fleetlimit_twice", ("BENCH_TWICE", "logs")),
)
"""The middleware with one part of its telemetry more, or less."""
PEERS: Final = (
    Contender("slowapi", "slowapi_peer", "slowapi"),
    Contender("fastapi-limiter", "fastapi_limiter_peer", "fastapi-limiter"),
    Contender("limits", "limits_peer", "limits"),
    Contender("throttled-py", "throttled_peer", "throttled-py"),
    Contender("pyrate-limiter", "pyrate_peer", "pyrate-limiter"),
    Contender("fastapi-redis-sdk", "redis_sdk_peer", "fastapi-redis-sdk"),
)
CHECK: Final = Contender("fleetlimit", "fleetlimit_check")
"""Fleetlimit without HTTP."""


def compiled(contender: Contender) -> Contender:
    """Return the same contender, run from the compiled wheel."""
    return replace(contender, name=f"{contender.name}, compiled", environment=COMPILED)


@dataclass(frozen=True, slots=True)
class Company:
    """The contenders measured next to Fleetlimit's interpreted form.

    Args:
        peers: Other limiters.
        compiled: Whether the compiled wheel is measured too.
    """

    peers: tuple[Contender, ...] = PEERS
    compiled: bool = True

    def ours(self, *contenders: Contender) -> tuple[Contender, ...]:
        """Return these contenders, and their compiled forms if those are measured."""
        return (*contenders, *map(compiled, contenders)) if self.compiled else contenders

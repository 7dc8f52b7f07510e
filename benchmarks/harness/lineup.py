"""Who is measured, and how each is started."""

from dataclasses import dataclass, replace
from typing import Final

OWN: Final = ""
"""The environment that runs the benchmark itself."""
COMPILED: Final = "compiled"
"""The environment with Fleetlimit's compiled wheel."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One app that is measured.

    Args:
        name: Its name in the results.
        module: Its module among the contenders.
        environment: The pinned environment that it runs in; `OWN` for that of the benchmark.
        policies: Which of Fleetlimit's policy files it runs under; empty for none.
        served: Whether `fleetlimit serve` runs it, and not uvicorn.
        variables: Further variables of its environment.
    """

    name: str
    module: str
    environment: str = OWN
    policies: str = ""
    served: bool = False
    variables: tuple[tuple[str, str], ...] = ()


BARE: Final = Contender("bare", "bare")
FLOOR: Final = Contender("floor", "floor")
MIDDLEWARE: Final = Contender("fleetlimit (middleware)", "fleetlimit_middleware", policies="one")
DEPENDENCY: Final = Contender("fleetlimit (dependency)", "fleetlimit_dependency", policies="one")
THREE: Final = Contender("fleetlimit (three limits)", "fleetlimit_middleware", policies="three")
SERVED: Final = Contender("fleetlimit serve", "bare", policies="one", served=True)
TRACED: Final = Contender(
    "fleetlimit serve, traced 1 %",
    "bare",
    policies="one",
    served=True,
    variables=(
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ),
)
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
    """Return the same from the compiled wheel."""
    return replace(contender, name=f"{contender.name}, compiled", environment=COMPILED)


@dataclass(frozen=True, slots=True)
class Company:
    """Who is measured beside Fleetlimit as it is.

    Args:
        peers: Other limiters.
        compiled: Whether Fleetlimit's compiled wheel is measured as well.
    """

    peers: tuple[Contender, ...] = PEERS
    compiled: bool = True

    def ours(self, *contenders: Contender) -> tuple[Contender, ...]:
        """Return these, and each from the compiled wheel if that is measured."""
        return (*contenders, *map(compiled, contenders)) if self.compiled else contenders

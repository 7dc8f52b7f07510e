"""Tracing set-up. OpenTelemetry's SDK and instrumentation are imported only when tracing is on.

They are the extra `otel`; spans of checks and log lines need `opentelemetry-api` alone.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fastapi import FastAPI
from opentelemetry import trace
from starlette.types import ASGIApp, Scope

from fleetlimit.errors import ConfigError
from fleetlimit.telemetry.tracing.environment import exporter_names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PARENTS_PER_SECOND = 100
"""Default number of sampled parents per second that are obeyed. It bounds their cost to some
percent of a core, and is as many as 1,000 requests a second have in traces that are sampled at
10 %."""


def configure_tracing(
    service_name: str,
    *,
    version: str = "",
    instance: str = "",
    on_dropped: Callable[[int], None] = lambda _: None,
) -> "TracerProvider | None":
    """Build the tracer provider that the standard `OTEL_*` variables describe.

    It does not become the global provider of the process. The sampler, the limits and the batch
    sizes follow their variables too; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override the
    arguments.

    Args:
        service_name: `service.name` of the resource.
        version: `service.version`, unless empty.
        instance: `service.instance.id`; by default the pod's name or a random one.
        on_dropped: Called with the number of spans that were not delivered, from any thread.

    Returns:
        A provider that the caller shuts down, or None when neither an exporter nor an endpoint is
        set, or OTEL_SDK_DISABLED is `true`.

    Raises:
        ConfigError: A variable has an unknown exporter or protocol or an invalid size, or the extra
            `otel` is not installed.
    """
    exporters = exporter_names()
    if not exporters:
        return None
    with _extra_required():
        from fleetlimit.telemetry.tracing.provider import (  # noqa: PLC0415 - of the extra otel
            build_provider,
        )

        return build_provider(
            exporters, service_name, version=version, instance=instance, on_dropped=on_dropped
        )


def instrument_app(
    app: FastAPI,
    provider: trace.TracerProvider,
    *,
    parents_per_second: int = PARENTS_PER_SECOND,
) -> None:
    """Create a server span for each request; a 429 does not mark it as an error.

    An app that is traced already is left as it is: by an instrumentation of its own, or by FastAPI
    itself (0.142 and later) with a tracer provider of the app.

    Call it before the app starts, its lifespan included: Starlette builds the middleware stack
    then.

    Args:
        app: The app.
        provider: Tracer provider of the spans.
        parents_per_second: Number of sampled parents per second that are obeyed, if the provider is
            one of `configure_tracing`. The provider's sampler decides about the further ones.
    """
    with _extra_required():
        from fleetlimit.telemetry.tracing import (  # noqa: PLC0415 - of the extra otel
            instrumentation,
        )
    instrumentation.instrument_fastapi(app, provider, parents_per_second)


def instrument_asgi(
    app: ASGIApp,
    provider: trace.TracerProvider,
    span_details: Callable[[Scope], tuple[str, dict[str, str]]],
    *,
    parents_per_second: int = PARENTS_PER_SECOND,
) -> ASGIApp:
    """Return an ASGI app that creates a server span for each request of `app`.

    Args:
        app: An app of any ASGI framework; if it is traced already, it is returned as it is.
        provider: Tracer provider of the spans.
        span_details: Function that returns the name and the attributes of a request's span.
        parents_per_second: See `instrument_app`.
    """
    with _extra_required():
        from fleetlimit.telemetry.tracing import (  # noqa: PLC0415 - of the extra otel
            instrumentation,
        )
    return instrumentation.instrument_asgi(app, provider, span_details, parents_per_second)


@contextlib.contextmanager
def _extra_required() -> Iterator[None]:
    """Turn the failed import of a package of the extra into an error with the command to run."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("opentelemetry"):
            raise
        raise ConfigError(
            f"tracing is on, but {error.name} is not installed: pip install 'fleetlimit[otel]', "
            "or set OTEL_TRACES_EXPORTER=none"
        ) from error

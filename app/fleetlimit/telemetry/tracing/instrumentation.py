"""Server spans for requests, created by OpenTelemetry's own instrumentation.

An app that is traced already is left as it is: a second server span would count each request twice,
and the sampling ratio of the app would be lost.
"""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

from fastapi import FastAPI
from opentelemetry import context, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from starlette.applications import Starlette
from starlette.routing import Host, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.telemetry.tracing.head_sampling import HeadSampler, preset_trace_id

_OPT_IN = "OTEL_SEMCONV_STABILITY_OPT_IN"
_MESSAGE_SPANS: list[Literal["receive", "send"]] = ["receive", "send"]
"""Excluded: a span per ASGI message triples the spans of a request and adds no information."""
_SCOPE_TYPES = frozenset({"http", "websocket"})
_FASTAPI_SCOPE_KEY = "fastapi.telemetry"
"""A FastAPI app, from 0.142 on, creates no span for a request whose scope has this key."""
_log = logging.getLogger("fleetlimit")


def instrument_fastapi(
    app: FastAPI, provider: trace.TracerProvider, parents_per_second: int
) -> None:
    """Create a server span for each request of a FastAPI app, unless it is traced already."""
    if _is_traced(app):
        _log_left_to_app()
        if _enters_middleware(app):
            build_traced = app.build_middleware_stack
            app.build_middleware_stack = lambda: _NativeSpansOff(build_traced())  # type: ignore[method-assign]  # as the instrumentation does
        return
    _opt_in_to_stable_semconv()
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=_MESSAGE_SPANS)
    build = app.build_middleware_stack

    def build_with_sampling() -> ASGIApp:
        traced = build()
        middleware = next(
            (each for each in _chain(traced) if isinstance(each, OpenTelemetryMiddleware)), None
        )
        if middleware is None:
            return traced
        if _enters_middleware(middleware.app):
            # A function of the app has added it, which only the built stack shows.
            _log_left_to_app()
            return _NativeSpansOff(middleware.app)
        return _ServerSpanMiddleware(traced, middleware.app, app, provider, parents_per_second)

    app.build_middleware_stack = build_with_sampling  # type: ignore[method-assign]  # as the instrumentation does


def instrument_asgi(
    app: ASGIApp,
    provider: trace.TracerProvider,
    span_details: Callable[[Scope], tuple[str, dict[str, str]]],
    parents_per_second: int,
) -> ASGIApp:
    """Return an ASGI app that creates a server span for each request, or a traced app itself."""
    if _is_traced(app):
        _log_left_to_app()
        return _NativeSpansOff(app) if _enters_middleware(app) else app
    _opt_in_to_stable_semconv()
    traced = OpenTelemetryMiddleware(
        app,
        tracer_provider=provider,
        default_span_details=span_details,
        exclude_spans=_MESSAGE_SPANS,
    )
    return _ServerSpanMiddleware(traced, app, app, provider, parents_per_second)


def _log_left_to_app() -> None:
    _log.info("tracing.left_to_app detail=%r", "the app creates its server spans itself")


class _NativeSpansOff:
    """ASGI middleware that prevents the spans of FastAPI apps in an app with OpenTelemetry's.

    Otherwise each of the two creates a server span for a request. FastAPI itself creates none if
    OpenTelemetry's middleware is one of its own, but not if it is outside of it.

    Args:
        app: App of which every request passes OpenTelemetry's middleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in _SCOPE_TYPES:
            scope[_FASTAPI_SCOPE_KEY] = None
        await self.app(scope, receive, send)


class _ServerSpanMiddleware:
    """ASGI middleware outside of OpenTelemetry's: leads unsampled requests around it.

    They still have a trace id, for log lines and outgoing calls. The app may configure a global
    tracer provider in its lifespan, after which FastAPI traces by itself. Therefore the first
    request decides whether this middleware does anything.

    Args:
        traced: App with OpenTelemetry's middleware.
        untraced: The same app without it.
        target: App whose own tracing prevails.
        provider: Tracer provider of the spans.
        parents_per_second: See `HeadSampler`.
    """

    def __init__(
        self,
        traced: ASGIApp,
        untraced: ASGIApp,
        target: ASGIApp,
        provider: trace.TracerProvider,
        parents_per_second: int,
    ) -> None:
        self._traced = traced
        self._untraced = untraced
        self._target = target
        self._provider = provider
        self._parents_per_second = parents_per_second
        self._decided = False
        self._is_left_to_app = False
        self._head_sampler: HeadSampler | None = None

    @property
    def app(self) -> ASGIApp:
        """The app below, in which FastAPI looks for OpenTelemetry's middleware before a request."""
        if not self._decided:
            self._on_first_request()
        return self._untraced if self._is_left_to_app else self._traced

    def _on_first_request(self) -> None:
        self._decided = True
        self._is_left_to_app = _has_own_provider(self._target)
        if self._is_left_to_app:
            _log_left_to_app()
        else:
            self._head_sampler = HeadSampler.for_provider(self._provider, self._parents_per_second)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _SCOPE_TYPES:
            await self._traced(scope, receive, send)
            return
        if not self._decided:
            self._on_first_request()
        if self._is_left_to_app:
            await self._untraced(scope, receive, send)
            return
        # Without this, mounted FastAPI apps would create further server spans.
        scope[_FASTAPI_SCOPE_KEY] = None
        sampler = self._head_sampler
        decision = None if sampler is None else sampler.decide(scope)
        if sampler is None or decision is None:
            await self._traced(scope, receive, send)
        elif isinstance(decision, int):
            with preset_trace_id(decision):
                await self._traced(scope, receive, send)
        else:
            token = context.attach(decision)
            app = self._untraced if sampler.skips_middleware else self._traced
            try:
                await app(scope, receive, send)
            finally:
                context.detach(token)


def _is_traced(target: Any) -> bool:
    """Return whether an app, or an app in it, creates server spans by itself."""
    return any(_traces_itself(app) for app in _apps_in(target))


def _has_own_provider(target: Any) -> bool:
    """Return whether a FastAPI app in this app creates spans without any instrumentation."""
    return any(_has_native_spans(app) for app in _apps_in(target))


def _traces_itself(app: Any) -> bool:
    return _has_middleware(app) or _has_native_spans(app)


def _enters_middleware(target: Any) -> bool:
    """Return whether every request of an app passes OpenTelemetry's middleware."""
    return any(_has_middleware(app) for app in _chain(target))


def _has_middleware(app: Any) -> bool:
    return (
        isinstance(app, OpenTelemetryMiddleware)
        or getattr(app, "_is_instrumented_by_opentelemetry", False)
        or any(_is_tracing_class(each.cls) for each in getattr(app, "user_middleware", ()))
    )


def _is_tracing_class(middleware: object) -> bool:
    return isinstance(middleware, type) and issubclass(middleware, OpenTelemetryMiddleware)


def _has_native_spans(app: Any) -> bool:
    """Return whether FastAPI, from 0.142 on, creates the spans of an app's requests."""
    telemetry = getattr(app, "_telemetry", None)
    if not isinstance(app, FastAPI) or telemetry is None or not telemetry["tracing"]:
        return False
    provider = telemetry["tracer_provider"] or trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _chain(app: Any) -> Iterator[Any]:
    """Yield an app and the apps that it wraps, by their attribute `app`."""
    seen: set[int] = set()
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        yield app
        app = getattr(app, "app", None)


def _apps_in(target: Any) -> Iterator[Any]:
    """Yield an app, the apps that it wraps, and the apps that are mounted on any of them."""
    pending, seen = [target], set[int]()
    while pending:
        for app in _chain(pending.pop()):
            if id(app) in seen:
                break
            seen.add(id(app))
            yield app
            if isinstance(app, Starlette | Router):
                pending += [each.app for each in app.routes if isinstance(each, Mount | Host)]


def _opt_in_to_stable_semconv() -> None:
    """Opt in to the stable attribute names; the first instrumentation of a process reads this."""
    os.environ.setdefault(_OPT_IN, "http")

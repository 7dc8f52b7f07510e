"""Decides at the head of a request whether it is traced, before anything is gathered for its span.

OpenTelemetry's middleware gathers what a span would say and asks the sampler then. That takes as
long as serving a small request, and with few requests sampled it is nearly always for nothing.
"""

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from fastapi import FastAPI
from opentelemetry import context, propagate, trace
from opentelemetry.instrumentation.utils import suppress_http_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    StaticSampler,
    TraceIdRatioBased,
)
from starlette.types import ASGIApp, Receive, Scope, Send

_REQUESTS: Final = frozenset({"http", "websocket"})
_BY_ID_ALONE: Final = (ParentBased, ParentBasedTraceIdRatio, TraceIdRatioBased, StaticSampler)
"""Samplers that look at nothing that is gathered later."""
_WITHIN: Final = "headgate.trace"

_chosen: ContextVar[list[int]] = ContextVar("chosen")


class ChosenIds(RandomIdGenerator):
    """Random ids, but a request that was chosen has the one that it was judged by."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        chosen = _chosen.get([])
        return chosen.pop() if chosen else super().generate_trace_id()


def sample_at_head(app: FastAPI, provider: trace.TracerProvider) -> None:
    """Let requests that are not sampled pass by OpenTelemetry's middleware.

    They have a trace's id all the same, for log lines and for what they call. Nothing is changed
    under a sampler that wants to know more of a request than its trace.

    Args:
        app: An app that is instrumented, and has served nothing yet.
        provider: Where its spans go.
    """
    if not isinstance(provider, TracerProvider) or type(provider.sampler) not in _BY_ID_ALONE:
        return
    if not isinstance(provider.id_generator, ChosenIds):
        return
    app.add_middleware(_Within)
    build = app.build_middleware_stack

    def build_with_sampling() -> ASGIApp:
        return _Head(build(), provider)

    app.build_middleware_stack = build_with_sampling  # type: ignore[method-assign]  # as the instrumentation does


class _Head:
    """Stands before OpenTelemetry's middleware."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        self._app = app
        self._provider = provider
        self._parents = frozenset(
            name.lower().encode() for name in propagate.get_global_textmap().fields
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _REQUESTS or self._has_parent(scope):
            await self._app(scope, receive, send)
            return
        ids = self._provider.id_generator
        trace_id = ids.generate_trace_id()
        judged = self._provider.sampler.should_sample(None, trace_id, "", trace.SpanKind.SERVER)
        if judged.decision is Decision.RECORD_AND_SAMPLE:
            chosen = _chosen.set([trace_id])
            try:
                await self._app(scope, receive, send)
            finally:
                _chosen.reset(chosen)
            return
        span = trace.NonRecordingSpan(
            trace.SpanContext(
                trace_id, ids.generate_span_id(), is_remote=False, trace_state=judged.trace_state
            )
        )
        within = scope[_WITHIN] = trace.set_span_in_context(span)
        token = context.attach(within)
        try:
            with suppress_http_instrumentation():
                await self._app(scope, receive, send)
        finally:
            context.detach(token)

    def _has_parent(self, scope: MutableMapping[str, Any]) -> bool:
        if any(name in self._parents for name, _ in scope["headers"]):
            return True
        return trace.get_current_span().get_span_context().is_valid


class _Within:
    """Stands behind it, so that what the app calls is instrumented as ever."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        within = scope.pop(_WITHIN, None)
        if within is None:
            await self._app(scope, receive, send)
            return
        token = context.attach(within)
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)

"""Head sampling: the sampling decision is made before OpenTelemetry's middleware runs.

That middleware collects the attributes of a span and then asks the sampler, which takes as long as
serving a small request; at a low sampling ratio nearly all of it is wasted. Trace ids and sampling
decisions are precomputed in batches of 16, which costs a third per request.
"""

from contextvars import ContextVar
from typing import Any, Final

from fastapi import FastAPI
from opentelemetry import context, propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.telemetry.tracing.unsampled import UnsampledContext

_SCOPE_TYPES: Final = frozenset({"http", "websocket"})
_TRACE_ID_SAMPLERS: Final = (
    ParentBased,
    ParentBasedTraceIdRatio,
    TraceIdRatioBased,
    StaticSampler,
)
"""Samplers that use the trace id and the parent only, and none of the span's attributes."""
BATCH_SIZE: Final = 16
"""Sampling decisions in a batch. The first request of a batch waits for all of them, some 30 us."""
_preset_trace_id: ContextVar[list[int]] = ContextVar("preset_trace_id")


class PresetTraceIdGenerator(RandomIdGenerator):
    """Random ids, except that a sampled request gets the trace id of its sampling decision."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        preset = _preset_trace_id.get([])
        return preset.pop() if preset else super().generate_trace_id()


def enable_head_sampling(app: FastAPI, provider: trace.TracerProvider) -> None:
    """Route unsampled requests around OpenTelemetry's middleware.

    They still have a trace id, for log lines and outgoing calls. The app is left unchanged under a
    sampler that may use more of a request than its trace id and parent.

    Args:
        app: An instrumented app that has not served a request yet.
        provider: Tracer provider of the app.
    """
    if not isinstance(provider, TracerProvider) or type(provider.sampler) not in _TRACE_ID_SAMPLERS:
        return
    if not isinstance(provider.id_generator, PresetTraceIdGenerator):
        return
    build = app.build_middleware_stack

    def build_with_sampling() -> ASGIApp:
        traced = build()
        untraced = _find_untraced_app(traced)
        if untraced is None:
            return traced
        decisions = _SamplingDecisions(provider.id_generator, provider.sampler)
        return _HeadSamplingMiddleware(traced, untraced, decisions)

    app.build_middleware_stack = build_with_sampling  # type: ignore[method-assign]  # as the instrumentation does


def _find_untraced_app(app: Any) -> ASGIApp | None:
    """Return the app that OpenTelemetry's middleware wraps; other middleware may wrap both."""
    while app is not None:
        inner: ASGIApp | None = getattr(app, "app", None)
        if isinstance(app, OpenTelemetryMiddleware):
            return inner
        app = inner
    return None


class _SamplingDecisions:
    """Queue of precomputed sampling decisions for requests without a parent.

    Args:
        ids: Generator of trace and span ids.
        sampler: Sampler that decides by trace id.
    """

    def __init__(self, ids: IdGenerator, sampler: Sampler) -> None:
        self._ids = ids
        self._sampler = sampler
        self._batch: list[int | UnsampledContext] = []

    def next(self) -> int | UnsampledContext:
        """Return the trace id of a sampled request, or the context of an unsampled one."""
        if not self._batch:
            self._batch = [self._decide() for _ in range(BATCH_SIZE)]
        return self._batch.pop()

    def _decide(self) -> int | UnsampledContext:
        trace_id = self._ids.generate_trace_id()
        result = self._sampler.should_sample(None, trace_id, "", trace.SpanKind.SERVER)
        if result.decision is Decision.RECORD_AND_SAMPLE:
            return trace_id
        span_id, state = self._ids.generate_span_id(), result.trace_state
        return UnsampledContext.for_span(
            trace.SpanContext(trace_id, span_id, is_remote=False, trace_state=state)
        )


class _HeadSamplingMiddleware:
    """ASGI middleware outside of OpenTelemetry's: chooses the traced or the untraced app.

    Args:
        traced: The app with OpenTelemetry's middleware.
        untraced: The app without it.
        decisions: Sampling decisions for requests without a parent.
    """

    def __init__(self, traced: ASGIApp, untraced: ASGIApp, decisions: _SamplingDecisions) -> None:
        self._traced = traced
        self._untraced = untraced
        self._decisions = decisions
        self._parent_headers = frozenset(
            name.lower().encode() for name in propagate.get_global_textmap().fields
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in _SCOPE_TYPES or self._has_parent(scope):
            await self._traced(scope, receive, send)
            return
        decision = self._decisions.next()
        if isinstance(decision, int):
            preset = _preset_trace_id.set([decision])
            try:
                await self._traced(scope, receive, send)
            finally:
                _preset_trace_id.reset(preset)
            return
        token = context.attach(decision.merged_with_current())
        try:
            await self._untraced(scope, receive, send)
        finally:
            context.detach(token)

    def _has_parent(self, scope: Scope) -> bool:
        for name, _ in scope["headers"]:
            if name in self._parent_headers:
                return True
        # Fast path: an empty context has no span.
        return bool(context.get_current()) and (
            trace.get_current_span().get_span_context().is_valid
        )

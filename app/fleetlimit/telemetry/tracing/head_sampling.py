"""Decides at the head of a request whether it is traced, before anything is gathered for its span.

OpenTelemetry's middleware gathers what a span would say and asks the sampler then. That takes as
long as serving a small request, and with few requests sampled it is nearly always for nothing. Ids
are drawn and judged ahead, several at a time, with the code at hand: by the piece a third of what
it takes to draw one.
"""

from contextvars import ContextVar
from typing import Any, Final, Self

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


class UnsampledContext(context.Context):
    """Has a span of this process that is not sampled; with anything put on top it is another."""

    @classmethod
    def for_span(cls, span: trace.SpanContext) -> Self:
        """Return the context of a span that is not sampled."""
        return cls(trace.set_span_in_context(trace.NonRecordingSpan(span), context.Context()))

    def merged_with_current(self) -> context.Context:
        """Return its span among whatever else is current."""
        if not context.get_current():
            return self
        return trace.set_span_in_context(trace.get_current_span(self))


def in_unsampled_request() -> bool:
    """Tell whether that of a request is current, and nothing is put on top of it."""
    return type(context.get_current()) is UnsampledContext


_SCOPE_TYPES: Final = frozenset({"http", "websocket"})
_TRACE_ID_SAMPLERS: Final = (ParentBased, ParentBasedTraceIdRatio, TraceIdRatioBased, StaticSampler)
"""Samplers that look at nothing that is gathered later."""
BATCH_SIZE: Final = 16
"""Ids drawn in one go. Whoever comes first waits for all of them: some 30 us."""
_preset_trace_id: ContextVar[list[int]] = ContextVar("chosen")


class PresetTraceIdGenerator(RandomIdGenerator):
    """Random ids, but a request that was chosen has the one that it was judged by."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        preset = _preset_trace_id.get([])
        return preset.pop() if preset else super().generate_trace_id()


def enable_head_sampling(app: FastAPI, provider: trace.TracerProvider) -> None:
    """Let requests that are not sampled pass by OpenTelemetry's middleware.

    They have a trace's id all the same, for log lines and for what they call. Nothing is changed
    under a sampler that wants to know more of a request than its trace.

    Args:
        app: An app that is instrumented, and has served nothing yet.
        provider: Where its spans go.
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
        return _HeadSamplingMiddleware(
            traced, untraced, _SamplingDecisions(provider.id_generator, provider.sampler)
        )

    app.build_middleware_stack = build_with_sampling  # type: ignore[method-assign]  # as the instrumentation does


def _find_untraced_app(app: Any) -> ASGIApp | None:
    """Return what OpenTelemetry's middleware is wrapped around, itself among what is around it."""
    while app is not None:
        inner: ASGIApp | None = getattr(app, "app", None)
        if isinstance(app, OpenTelemetryMiddleware):
            return inner
        app = inner
    return None


class _SamplingDecisions:
    """Draws what the next request is.

    Args:
        ids: Draws ids.
        sampler: Judges them.
    """

    def __init__(self, ids: IdGenerator, sampler: Sampler) -> None:
        self._ids = ids
        self._sampler = sampler
        self._batch: list[int | UnsampledContext] = []

    def next(self) -> int | UnsampledContext:
        """Return the id of a trace that is sampled, or the context of one that is not."""
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
    """Stands before OpenTelemetry's middleware.

    Args:
        traced: The app with it.
        untraced: The app without it.
        decisions: Says which of them is to answer.
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
        # Where nothing is current, which is seen at once, no span is.
        return bool(context.get_current()) and (
            trace.get_current_span().get_span_context().is_valid
        )

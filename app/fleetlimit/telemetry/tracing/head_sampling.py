"""Head sampling: the sampling decision is made before OpenTelemetry's middleware runs.

That middleware collects the attributes of a span and then asks the sampler, which takes as long as
serving a small request; at a low sampling ratio nearly all of it is wasted. Trace ids and sampling
decisions are precomputed in batches of 16, which costs a third per request.

A client can send a `traceparent` with the sampled flag, and choose its trace id. If every one was
obeyed, clients and not the operator would set the sampling ratio, so a sampled parent is obeyed a
bounded number of times per second (W3C Trace Context, "Denial of service").
"""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.instrumentation.asgi import asgi_getter
from opentelemetry.instrumentation.propagators import get_global_response_propagator
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
from starlette.types import Scope

from fleetlimit.core.algorithms import token_bucket
from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.ports import Clock
from fleetlimit.telemetry.tracing.unsampled import UnsampledContext

_TRACE_ID_SAMPLERS: Final = (
    ParentBased,
    ParentBasedTraceIdRatio,
    TraceIdRatioBased,
    StaticSampler,
)
"""Samplers that use the trace id and the parent only, and none of the span's attributes."""
BATCH_SIZE: Final = 16
"""Sampling decisions in a batch. The first request of a batch waits for all of them, some 30 us."""
_log = logging.getLogger("fleetlimit")
_preset_trace_id: ContextVar[list[int]] = ContextVar("preset_trace_id")


class PresetTraceIdGenerator(RandomIdGenerator):
    """Random ids, except that a sampled request gets the trace id of its sampling decision."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        preset = _preset_trace_id.get([])
        return preset.pop() if preset else super().generate_trace_id()


@contextlib.contextmanager
def preset_trace_id(trace_id: int) -> Iterator[None]:
    """Set the trace id of the first root span in the block."""
    token = _preset_trace_id.set([trace_id])
    try:
        yield
    finally:
        _preset_trace_id.reset(token)


class HeadSampler:
    """Sampling decisions of requests, in place of OpenTelemetry's middleware.

    Args:
        ids: Generator of trace and span ids.
        sampler: Sampler that decides by trace id and parent.
        parents_per_second: Number of sampled parents per second that are obeyed; the sampler
            decides about the requests of further ones as if they had no parent.
        clock: Monotonic clock of the process.
    """

    def __init__(
        self, ids: IdGenerator, sampler: Sampler, parents_per_second: int, clock: Clock
    ) -> None:
        self._ids = ids
        self._sampler = sampler
        self._parents = _RateLimit(parents_per_second, clock)
        self._batch: list[int | UnsampledContext] = []
        self._parent_headers = frozenset(
            name.lower().encode() for name in propagate.get_global_textmap().fields
        )
        self._warned = False
        self.skips_middleware = not _middleware_is_used()
        """Whether OpenTelemetry's middleware has nothing to do for an unsampled request."""

    @classmethod
    def for_provider(
        cls,
        provider: trace.TracerProvider,
        parents_per_second: int,
        clock: Clock | None = None,
    ) -> "HeadSampler | None":
        """Return the sampler of a provider that `configure_tracing` has built.

        Return None for any other provider, and for a sampler that may use more of a request than
        its trace id and parent.
        """
        if (
            not isinstance(provider, TracerProvider)
            or type(provider.sampler) not in _TRACE_ID_SAMPLERS
            or not isinstance(provider.id_generator, PresetTraceIdGenerator)
        ):
            return None
        return cls(
            provider.id_generator, provider.sampler, parents_per_second, clock or MonotonicClock()
        )

    def decide(self, scope: Scope) -> int | UnsampledContext | None:
        """Return the sampling decision of a request.

        Returns:
            The trace id of a sampled request without a parent, the context of an unsampled request,
            or None for a request whose parent decides that it is sampled.
        """
        # Fast path: an empty context has no span.
        around = context.get_current()
        if around and trace.get_current_span(around).get_span_context().is_valid:
            return None
        for name, _ in scope["headers"]:
            if name in self._parent_headers:
                try:
                    extracted = propagate.extract(scope, around, asgi_getter)  # type: ignore[misc]  # a dict
                except ValueError:
                    # A header that is no text, at which OpenTelemetry's middleware fails as well.
                    return self._unsampled_root()
                parent = trace.get_current_span(extracted).get_span_context()
                if parent.is_valid:
                    return self._decide_with_parent(extracted, parent)
                around = extracted
                break
        decision = self._next_root()
        if around and isinstance(decision, UnsampledContext):
            return _rebase(decision, around)
        return decision

    def _decide_with_parent(
        self, extracted: context.Context, parent: trace.SpanContext
    ) -> UnsampledContext | None:
        result = self._sampler.should_sample(extracted, parent.trace_id, "", trace.SpanKind.SERVER)
        if result.decision is not Decision.RECORD_AND_SAMPLE:
            span = trace.SpanContext(
                parent.trace_id,
                self._ids.generate_span_id(),
                is_remote=False,
                trace_state=result.trace_state,
            )
            return UnsampledContext.for_span(span, extracted)
        if self._parents.allow():
            return None
        # Not by the parent's trace id, which the client may have chosen to be sampled.
        root = self._next_root()
        if not isinstance(root, UnsampledContext):
            return None
        if not self._warned:
            self._warned = True
            _log.warning(
                "tracing.parents_limited detail=%r",
                "more requests with a sampled parent than FLEETLIMIT_TRACE_PARENTS_PER_SECOND; "
                "the sampler decides about the further ones",
            )
        return _rebase(root, extracted)

    def _next_root(self) -> int | UnsampledContext:
        if not self._batch:
            self._batch = [self._decide_root() for _ in range(BATCH_SIZE)]
            # Once a batch, because a lookup of the provider takes as long as the decision.
            self.skips_middleware = not _middleware_is_used()
        return self._batch.pop()

    def _unsampled_root(self) -> UnsampledContext:
        ids = self._ids.generate_trace_id(), self._ids.generate_span_id()
        return UnsampledContext.for_span(trace.SpanContext(*ids, is_remote=False))

    def _decide_root(self) -> int | UnsampledContext:
        trace_id = self._ids.generate_trace_id()
        result = self._sampler.should_sample(None, trace_id, "", trace.SpanKind.SERVER)
        if result.decision is Decision.RECORD_AND_SAMPLE:
            return trace_id
        span_id, state = self._ids.generate_span_id(), result.trace_state
        return UnsampledContext.for_span(
            trace.SpanContext(trace_id, span_id, is_remote=False, trace_state=state)
        )


def _rebase(decision: UnsampledContext, around: context.Context) -> UnsampledContext:
    span = trace.get_current_span(decision).get_span_context()
    return UnsampledContext.for_span(span, around)


def _middleware_is_used() -> bool:
    """Return whether OpenTelemetry's middleware measures requests or adds response headers."""
    if get_global_response_propagator() is not None:  # type: ignore[no-untyped-call]
        return True
    # OpenTelemetry has no public query for a meter provider that was not configured.
    return type(metrics.get_meter_provider()).__name__ not in {
        "_ProxyMeterProvider",
        "NoOpMeterProvider",
    }


class _RateLimit:
    """Token bucket of this process.

    Args:
        per_second: Rate and burst; 0 allows nothing.
        clock: Monotonic clock of the process.
    """

    def __init__(self, per_second: int, clock: Clock) -> None:
        self._quota = (
            Quota(Algorithm.TOKEN_BUCKET, per_second, SECOND_US, per_second) if per_second else None
        )
        self._state: token_bucket.GcraState | None = None
        self._clock = clock

    def allow(self) -> bool:
        """Spend a unit, and return whether there was one."""
        if self._quota is None:
            return False
        now_us = self._clock.monotonic_us()
        status, self._state = token_bucket.acquire(self._quota, self._state, now_us, 1, "")
        return status.allowed

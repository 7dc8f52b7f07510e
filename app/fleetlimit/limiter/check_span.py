"""Span of a check whose tracer may fail: the check is decided without it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final, Self

from fleetlimit.core.decision import Decision
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.ports import CheckSpan, Tracer

FAILED: Final = "tracer.failed"


class SafeCheckSpan:
    """Context manager of a check's span that logs the tracer's failures and raises none of them.

    Args:
        tracer: Creates the span.
        policies: Names of the policies.
        failure_log: Log of the failures.
    """

    def __init__(self, tracer: Tracer, policies: Sequence[str], failure_log: FailureLog) -> None:
        self._tracer = tracer
        self._policies = policies
        self._failure_log = failure_log
        self._context: AbstractContextManager[CheckSpan] | None = None
        self._span: CheckSpan | None = None

    def __enter__(self) -> Self:
        try:
            context = self._tracer.start_check(self._policies)
            self._span = context.__enter__()
            self._context = context
        except Exception as error:  # noqa: BLE001 - it must not fail the check
            self._failure_log.write(FAILED, error)
        return self

    def set_decision(self, decision: Decision) -> None:
        """Record the decision in the span."""
        if self._span is not None:
            try:
                self._span.set_decision(decision)
            except Exception as error:  # noqa: BLE001 - as above
                self._failure_log.write(FAILED, error)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._context is not None:
            try:
                self._context.__exit__(kind, error, traceback)
            except Exception as own:  # noqa: BLE001 - as above
                self._failure_log.write(FAILED, own)

"""Tracers that fail: each check is decided without them, and the failures are logged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pytest

from fleetlimit.core.decision import Decision
from fleetlimit.errors import CostError
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.log_sampler import LINES_PER_WINDOW
from fleetlimit.stores.memory import MemoryStore
from support.limiter import rate_policy


class Tracer:
    """Tracer and span that fail at one of their methods."""

    def __init__(self, failing: str = "") -> None:
        self._failing = failing
        self.called: list[str] = []

    def _call(self, name: str) -> None:
        self.called.append(name)
        if name == self._failing:
            raise LookupError(name)

    def is_sampled(self) -> bool:
        """Return whether a check is traced."""
        self._call("is_sampled")
        return True

    def start_check(self, _policies: Sequence[str]) -> Any:
        """Open the span."""
        self._call("start_check")
        return self

    def __enter__(self) -> Self:
        self._call("__enter__")
        return self

    def __exit__(self, *_: object) -> None:
        self._call("__exit__")

    def set_decision(self, _decision: Decision) -> None:
        """Record the decision."""
        self._call("set_decision")


STEPS = ["is_sampled", "start_check", "__enter__", "set_decision", "__exit__"]


@pytest.mark.parametrize("failing", STEPS)
async def test_failing_tracer_never_fails_a_check(
    failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The check is decided once, and the log is sampled."""
    tracer, policy = Tracer(failing), rate_policy("a", "9/minute")
    limiter = Limiter(MemoryStore(), local=MemoryStore(), tracer=tracer)
    for _ in range(LINES_PER_WINDOW + 2):
        assert (await limiter.check(policy, principal="ann")).allowed
    assert not (await limiter.check(policy, principal="ann", cost=3)).allowed
    assert caplog.messages == ["tracer.failed"] * LINES_PER_WINDOW
    await limiter.aclose()
    assert caplog.messages[-1] == "tracer.failed.suppressed error=LookupError suppressed=3"
    # After a failed `set_decision` the span is closed all the same.
    assert ("__exit__" in tracer.called) == (failing in {"set_decision", "__exit__"})


async def test_working_tracer_is_called_in_order() -> None:
    """The decision is recorded within the span."""
    tracer = Tracer()
    limiter = Limiter(MemoryStore(), local=MemoryStore(), tracer=tracer)
    await limiter.check(rate_policy("a", "9/minute"), principal="ann")
    assert tracer.called == STEPS
    await limiter.aclose()


class FailingStore(MemoryStore):
    """Store with a fault."""

    async def acquire(self, *_: Any, **__: Any) -> Any:
        """Fail with an error that is no `StoreError`."""
        raise CostError("fault")


class GeneratorTracer(Tracer):
    """Tracer whose span is a generator, which raises the error of its check again."""

    @contextmanager
    def start_check(self, _policies: Sequence[str]) -> Iterator[Tracer]:
        """Open the span."""
        yield self


async def test_error_of_the_check_is_no_failure_of_the_tracer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is raised as it is."""
    limiter = Limiter(FailingStore(), local=MemoryStore(), tracer=GeneratorTracer())
    with pytest.raises(CostError, match="fault"):
        await limiter.check(rate_policy("a", "9/minute"), principal="ann")
    assert "tracer.failed" not in caplog.messages
    await limiter.aclose()

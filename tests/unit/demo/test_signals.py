"""Signals that end the run."""

import asyncio
import os
import signal

import pytest

from fleetlimit.demo.signals import Interrupted, interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_cancels_the_work_once(number: signal.Signals) -> None:
    """A second signal does not interrupt the clean-up."""
    cleaned = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), number)
            for _ in range(20):
                await asyncio.sleep(0)
            cleaned.append(True)

    with pytest.raises(Interrupted, match=number.name) as raised:
        asyncio.run(interruptible(work()))
    assert raised.value.signal == number
    assert cleaned == [True]


def test_interruptible_returns_the_result() -> None:
    """The work's result is returned, and the handlers of the process are restored."""

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(interruptible(work())) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_cancellation_without_a_signal_is_raised() -> None:
    """The caller that cancels the task receives `CancelledError`."""

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interruptible(work()))

"""Signals end the work in order."""

import asyncio
import os
import signal

import pytest

from fleetlimit.demo.signals import Interrupted, interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_work_clean_up(number: signal.Signals) -> None:
    """The work is cancelled once; a second signal does not cut its cleaning up short."""
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


def test_without_a_signal_the_result_comes_back() -> None:
    """What the work returns is returned, and the process's own handlers are back."""

    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(interruptible(work())) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_cancellation_without_a_signal_stays_one() -> None:
    """Who cancels the task hears of it as of any other."""

    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interruptible(work()))

"""The operation timeout under a CPU limit: the kernel stops the process for most of each period."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fleetlimit.errors import StoreUnavailable
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.tick_timer import MAX_LATE_TICKS, TICKS
from support.batcher import FakeServer, batcher_for, call, loop_turns

OPERATION_S = Timeouts().operation
TICK_S = OPERATION_S / TICKS
PERIOD_S = 0.1
"""Period of the Linux scheduler (`cpu.cfs_period_us`) in which a container has its CPU quota."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """Event loop whose clock the test moves."""

    now_s = 0.0

    def time(self) -> float:
        """Return the time of the test."""
        return self.now_s


def run(scenario: Callable[[SteppedLoop], Awaitable[None]]) -> None:
    """Run a scenario in such an event loop."""
    loop = SteppedLoop()

    async def main() -> None:
        await scenario(loop)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())


async def pass_time(loop: SteppedLoop, seconds: float) -> None:
    """Let the event loop run for a time, with every timer at its time."""
    for _ in range(round(seconds / TICK_S)):
        loop.now_s += TICK_S
        await loop_turns()


@pytest.mark.parametrize("quota_millicores", [50, 100, 250, 500])
def test_no_check_is_late_while_the_process_is_stopped(quota_millicores: int) -> None:
    """Replies that arrive while the process is stopped are in time, however long that is."""
    run_s = PERIOD_S * quota_millicores / 1_000

    async def scenario(loop: SteppedLoop) -> None:
        client = FakeServer(held=True)
        batcher = batcher_for(client, Timeouts())
        for number in range(100):
            await pass_time(loop, run_s)
            checking = call(batcher, number)
            await loop_turns()
            # The process is stopped after it has sent the check. When it runs again, the timer is
            # first: in uvloop timers run before arrived replies are read.
            loop.now_s += PERIOD_S - run_s
            await loop_turns()
            client.release()
            client._held = True
            assert await checking == str(number)

    run(scenario)


@pytest.mark.parametrize("quota_millicores", [50, 250])
def test_silent_store_is_late_after_the_timeout_of_running_time(quota_millicores: int) -> None:
    """A store that does not reply times out by the time in which the process ran."""
    run_s = PERIOD_S * quota_millicores / 1_000

    async def scenario(loop: SteppedLoop) -> None:
        batcher = batcher_for(FakeServer(held=True), Timeouts())
        checking = call(batcher, "a")
        await loop_turns()
        # Each stop counts for at most `MAX_LATE_TICKS`.
        counted_s = run_s + MAX_LATE_TICKS * TICK_S
        for _ in range(round(2 * OPERATION_S / counted_s) + 1):
            loop.now_s += PERIOD_S - run_s
            await loop_turns()
            await pass_time(loop, run_s)
        with pytest.raises(StoreUnavailable, match="within 50 ms"):
            await checking

    run(scenario)

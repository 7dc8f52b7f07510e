"""Sampling loses lines and never a count."""

from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.telemetry.logs.rate_limited import LogSampler
from support.telemetry import ManualClock


def sampler(clock: ManualClock, told: list[tuple[str, int]], capacity: int = 2) -> LogSampler[str]:
    return LogSampler(
        clock,
        lambda key, count: told.append((key, count)),
        overflow="(others)",
        lines_per_window=2,
        window_us=10_000_000,
        capacity=capacity,
    )


def test_first_few_of_a_window_are_let_through() -> None:
    """In a window the first two of a key are let through and the rest is held back."""
    sampled = sampler(ManualClock(), [])
    assert [sampled.should_log("a") for _ in range(4)] == [True, True, False, False]
    assert sampled.should_log("b")


def test_window_is_summarised_once_when_it_has_ended() -> None:
    """A window that held something back is summarised by the first call after its end."""
    clock, told = ManualClock(), list[tuple[str, int]]()
    sampled = sampler(clock, told)
    for _ in range(5):
        sampled.should_log("a")
    clock.advance(9.999999)
    sampled.flush()
    assert told == []
    clock.advance(0.000001)
    assert sampled.should_log("a")
    assert told == [("a", 3)]
    sampled.close()
    sampled.flush()
    assert told == [("a", 3)]


def test_flush_alone_ends_a_window() -> None:
    """Without further traffic a flush after the window writes the summary."""
    clock, told = ManualClock(), list[tuple[str, int]]()
    sampled = sampler(clock, told)
    for _ in range(3):
        sampled.should_log("a")
    clock.advance(10)
    sampled.flush()
    assert told == [("a", 1)]


def test_window_that_held_nothing_back_is_not_summarised() -> None:
    """A window in which everything was let through ends in silence."""
    told: list[tuple[str, int]] = []
    sampled = sampler(ManualClock(), told)
    sampled.should_log("a")
    sampled.close()
    assert told == []


def test_full_table_counts_new_keys_together() -> None:
    """Keys beyond the capacity share one entry, so a flood of keys needs no more memory."""
    told: list[tuple[str, int]] = []
    sampled = sampler(ManualClock(), told)
    through = [sampled.should_log(key) for key in "abcdef"]
    assert through == [True, True, True, True, False, False]
    assert len(sampled._windows) == 3
    sampled.close()
    assert told == [("(others)", 2)]


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 4)), max_size=200),
    st.integers(1, 6),
)
def test_let_through_and_summaries_add_up(steps: list[tuple[str, int]], capacity: int) -> None:
    """Whatever comes and when, the let through and the summaries add up to what came."""
    clock, told = ManualClock(), list[tuple[str, int]]()
    sampled = sampler(clock, told, capacity)
    through = 0
    for key, seconds in steps:
        clock.advance(seconds)
        through += sampled.should_log(key)
        assert len(sampled._windows) <= capacity + 1
    sampled.close()
    assert through + sum(count for _, count in told) == len(steps)

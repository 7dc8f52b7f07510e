"""Log sampler: it suppresses lines, and never loses a count."""

from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.limiter.log_sampler import LogSampler
from fleetlimit.testing import ManualClock


def sampler(
    clock: ManualClock, summaries: list[tuple[str, int]], capacity: int = 2
) -> LogSampler[str]:
    return LogSampler(
        clock,
        lambda key, count: summaries.append((key, count)),
        overflow="(others)",
        lines_per_window=2,
        window_us=10_000_000,
        capacity=capacity,
    )


def test_first_lines_of_a_window_are_logged() -> None:
    """In a window the first two events of a key are logged and the next are suppressed."""
    sampled = sampler(ManualClock(), [])
    assert [sampled.should_log("a") for _ in range(4)] == [True, True, False, False]
    assert sampled.should_log("b")


def test_window_is_summarised_once_after_its_end() -> None:
    """A window with suppressed lines is summarised by the first call after its end."""
    clock, summaries = ManualClock(), list[tuple[str, int]]()
    sampled = sampler(clock, summaries)
    for _ in range(5):
        sampled.should_log("a")
    clock.advance(9.999999)
    sampled.flush()
    assert summaries == []
    clock.advance(0.000001)
    assert sampled.should_log("a")
    assert summaries == [("a", 3)]
    sampled.close()
    sampled.flush()
    assert summaries == [("a", 3)]


def test_flush_summarises_a_window_without_traffic() -> None:
    """A flush after the window writes the summary."""
    clock, summaries = ManualClock(), list[tuple[str, int]]()
    sampled = sampler(clock, summaries)
    for _ in range(3):
        sampled.should_log("a")
    clock.advance(10)
    sampled.flush()
    assert summaries == [("a", 1)]


def test_window_without_suppressed_lines_has_no_summary() -> None:
    """A window in which every event was logged ends without a summary."""
    summaries: list[tuple[str, int]] = []
    sampled = sampler(ManualClock(), summaries)
    sampled.should_log("a")
    sampled.close()
    assert summaries == []


def test_full_table_counts_new_keys_together() -> None:
    """Keys beyond the capacity share one entry, so a flood of keys needs no more memory."""
    summaries: list[tuple[str, int]] = []
    sampled = sampler(ManualClock(), summaries)
    through = [sampled.should_log(key) for key in "abcdef"]
    assert through == [True, True, True, True, False, False]
    assert len(sampled._windows) == 3
    sampled.close()
    assert summaries == [("(others)", 2)]


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 4)), max_size=200),
    st.integers(1, 6),
)
def test_logged_and_suppressed_events_add_up(steps: list[tuple[str, int]], capacity: int) -> None:
    """In any order, logged events and summaries add up to all events."""
    clock, summaries = ManualClock(), list[tuple[str, int]]()
    sampled = sampler(clock, summaries, capacity)
    through = 0
    for key, seconds in steps:
        clock.advance(seconds)
        through += sampled.should_log(key)
        assert len(sampled._windows) <= capacity + 1
    sampled.close()
    assert through + sum(count for _, count in summaries) == len(steps)

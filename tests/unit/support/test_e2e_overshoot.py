"""The measure of the kind suite sees what it is there to see."""

from fleetlimit.core.quota import Algorithm, rate_quota
from support.e2e_overshoot import overshoot

BUCKET = rate_quota("60/minute", burst=3)
FIXED = rate_quota("2 per 10 s", algorithm=Algorithm.FIXED_WINDOW)
SECOND = 1_000_000


def test_a_burst_and_its_refill_are_no_overshoot() -> None:
    """Three at once and one in each second after are what the bucket permits."""
    first = [(0, 1)] * 3
    later = [(n * SECOND, n * SECOND + 1) for n in range(1, 5)]
    assert overshoot(BUCKET, first + later) == 0


def test_one_above_the_burst_is_seen_in_a_long_run() -> None:
    """Idle time before and after hides no request above the burst."""
    at_once = [(100 * SECOND, 100 * SECOND + 1)] * 4
    assert overshoot(BUCKET, [(0, 1), *at_once, (200 * SECOND, 200 * SECOND + 1)]) == 1


def test_one_above_a_window_is_seen() -> None:
    """Three in one window of two, while the window before stayed empty."""
    assert overshoot(FIXED, [(11 * SECOND, 12 * SECOND)] * 3) == 1


def test_a_request_between_two_windows_counts_for_neither() -> None:
    """What may have been decided in the window before is no proof."""
    assert overshoot(FIXED, [(9 * SECOND, 11 * SECOND), *[(12 * SECOND, 13 * SECOND)] * 2]) == 0


def test_nothing_let_in_is_no_overshoot() -> None:
    """An empty run is measured like any other."""
    assert overshoot(BUCKET, []) == overshoot(FIXED, []) == 0

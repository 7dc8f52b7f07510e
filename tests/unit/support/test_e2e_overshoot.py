"""Overshoot as the kind suite computes it from client observations."""

from fleetlimit.core.quota import Algorithm, rate_quota
from support.e2e_overshoot import overshoot

BUCKET = rate_quota("60/minute", burst=3)
FIXED = rate_quota("2 per 10 s", algorithm=Algorithm.FIXED_WINDOW)
SECOND = 1_000_000


def test_burst_and_refill_are_no_overshoot() -> None:
    """The bucket permits three at once and one in each second after."""
    first = [(0, 1)] * 3
    later = [(n * SECOND, n * SECOND + 1) for n in range(1, 5)]
    assert overshoot(BUCKET, first + later) == 0


def test_one_above_the_burst_is_found_in_a_long_run() -> None:
    """Idle time before and after does not hide it."""
    at_once = [(100 * SECOND, 100 * SECOND + 1)] * 4
    assert overshoot(BUCKET, [(0, 1), *at_once, (200 * SECOND, 200 * SECOND + 1)]) == 1


def test_one_above_a_window_is_found() -> None:
    """Three in one window of two, with an empty window before."""
    assert overshoot(FIXED, [(11 * SECOND, 12 * SECOND)] * 3) == 1


def test_a_request_between_two_windows_counts_for_neither() -> None:
    """It may have been decided in the window before."""
    assert overshoot(FIXED, [(9 * SECOND, 11 * SECOND), *[(12 * SECOND, 13 * SECOND)] * 2]) == 0


def test_few_admitted_requests_are_no_overshoot() -> None:
    """What one caller does not use is not subtracted from what another one gets."""
    assert overshoot(BUCKET, []) == overshoot(FIXED, []) == 0
    assert overshoot(BUCKET, [(0, 1)]) == overshoot(FIXED, [(0, 1)]) == 0

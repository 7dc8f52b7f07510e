"""Bounds of the algorithms, asserted for admitted units and their times."""

from collections import Counter

from fleetlimit.core.quota import Quota

Admitted = list[tuple[int, int]]
"""Time of each admission, in microseconds, and its units; in order of time."""


def assert_token_bucket(quota: Quota, admitted: Admitted) -> None:
    """In every closed interval at most `burst + rate * time` units are admitted."""
    for first, (start_us, _) in enumerate(admitted):
        total = 0
        for now_us, units in admitted[first:]:
            total += units
            allowed = quota.burst * quota.period_us + quota.limit * (now_us - start_us)
            assert total * quota.period_us <= allowed


def assert_fixed_window(quota: Quota, admitted: Admitted) -> None:
    """In every aligned window, or window of the calendar, at most the limit is admitted."""
    windows: Counter[int] = Counter()
    for now_us, units in admitted:
        calendar = quota.calendar
        window = now_us // quota.period_us if calendar is None else calendar.window_at(now_us)[0]
        windows[window] += units
    assert all(total <= quota.limit for total in windows.values())


def assert_sliding_window(quota: Quota, admitted: Admitted) -> None:
    """Aligned windows keep the limit, and any interval of a period less than twice of it."""
    assert_fixed_window(quota, admitted)
    assert _most_in_a_period(quota, admitted) < 2 * quota.limit


def assert_sliding_log(quota: Quota, admitted: Admitted) -> None:
    """In every interval of one period at most the limit is admitted."""
    assert _most_in_a_period(quota, admitted) <= quota.limit


def assert_concurrency(quota: Quota, admitted: Admitted) -> None:
    """At most the limit is held at once, if leases end only by expiring after a period."""
    assert _most_in_a_period(quota, admitted) <= quota.limit


def _most_in_a_period(quota: Quota, admitted: Admitted) -> int:
    return max(
        (
            sum(units for now_us, units in admitted if 0 <= now_us - start_us < quota.period_us)
            for start_us, _ in admitted
        ),
        default=0,
    )

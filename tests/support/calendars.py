"""Quotas with calendars, as Hypothesis strategies."""

from hypothesis import strategies as st

from fleetlimit.core.quota import Quota, rate_quota

ZONES = ["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu", "Africa/Cairo"]


def calendar_quotas(limits: st.SearchStrategy[int]) -> st.SearchStrategy[Quota]:
    """Generate windows of calendars, with any anchor, in zones whose clocks jump."""
    unit_and_anchor: st.SearchStrategy[tuple[str, int | str | None]] = st.one_of(
        st.just(("day", None)),
        st.tuples(st.just("week"), st.sampled_from(["monday", "saturday"])),
        st.tuples(st.just("month"), st.integers(1, 31)),
        st.tuples(st.just("year"), st.sampled_from(["01-01", "02-29", "07-04"])),
    )

    def build(limit: int, timezone: str, kind: tuple[str, int | str | None]) -> Quota:
        unit, anchor = kind
        return rate_quota(f"{limit}/{unit}", timezone=timezone, anchor=anchor)

    return st.builds(build, limits, st.sampled_from(ZONES), unit_and_anchor)

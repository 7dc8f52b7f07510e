"""The comparison: where it begins, what it waits for, and when it begins anew."""

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.audit.detector import (
    LAG_US,
    REPORT_RETENTION_US,
    Finding,
    OvershootDetector,
)
from fleetlimit.limiter.audit.ledger import INTERVAL_US
from fleetlimit.limiter.audit.report import PENDING, UNKNOWN, AuditedLimit, UsageReport, dump_report
from support.clock import EPOCH_US
from support.stores import quota_of

DAY_US = 86_400 * SECOND_US
LIMIT = AuditedLimit("p", quota_of(Algorithm.FIXED_WINDOW, 10, period_us=DAY_US))
NOW = EPOCH_US // INTERVAL_US
"""The slot in which a test begins."""


def report_of(
    slots: Mapping[int, Sequence[int]] | None = None,
    *,
    first: int = 0,
    gives_back: bool = False,
    break_us: int | None = None,
) -> UsageReport:
    """Return a statement of one caller: for each slot from now on, spent before and units."""
    written = {NOW + slot: [7, *figures] for slot, figures in (slots or {}).items()}
    account = (first and NOW + first, int(gives_back), written)
    breaks = {} if break_us is None else {"fl1:{ann}:p:fw86400": break_us}
    return UsageReport.parse(dump_report({str(LIMIT): {"ann": account}}, breaks))


class DetectorBench:
    """An auditor that hears what replicas state, every two seconds."""

    def __init__(self) -> None:
        self.detector = OvershootDetector(8)
        self.now_us = EPOCH_US
        self.findings: list[Finding] = []
        self.reports: dict[str, UsageReport] = {}

    def compare(self, **stated: UsageReport) -> None:
        """Compare at once; what was stated before is stated again."""
        self.reports.update(stated)
        heard = {name: (self.now_us, statement) for name, statement in self.reports.items()}
        self.findings += self.detector.compare(self.now_us, heard).values()

    def advance(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(0, seconds, 2):
            self.now_us += 2 * SECOND_US
            self.compare()

    def total(self, figure: str) -> Any:
        """Return the sum of a figure."""
        return sum(getattr(each, figure) for each in self.findings)

    @property
    def overshoot(self) -> int:
        """What was found."""
        return sum(units for each in self.findings for units in each.overshoot.values())


def test_a_slot_is_judged_when_all_had_the_time_to_state_it() -> None:
    """Ten seconds after its end, and not before."""
    desk = DetectorBench()
    desk.compare(a=report_of({0: (0, 11)}))
    desk.advance(14)
    assert (desk.total("intervals"), desk.overshoot) == (0, 0)
    desk.advance(2)
    assert (desk.total("intervals"), desk.overshoot) == (1, 1)


def test_after_an_outage_all_have_the_time_once_more() -> None:
    """The first who is back judges nothing by what it alone has stated."""
    desk = DetectorBench()
    desk.compare(a=report_of({0: (0, 6)}), b=report_of({0: (0, 4)}))
    desk.advance(16)
    desk.now_us += 60 * SECOND_US
    judged = desk.total("intervals")
    desk.compare(a=report_of({0: (0, 6), 3: (4, 6)}))
    desk.advance(6)
    assert desk.total("intervals") == judged
    # The other one had given back in time, and says so last.
    desk.compare(b=report_of({0: (0, 4), 3: (UNKNOWN, -6)}, gives_back=True))
    desk.advance(6)
    assert desk.total("intervals") > judged
    assert desk.overshoot == 0


def test_who_did_not_come_back_from_an_outage_is_heard() -> None:
    """What it stated before counts, however long ago that was."""
    desk = DetectorBench()
    desk.compare(a=report_of({0: (0, 5)}), b=report_of())
    desk.advance(16)
    desk.compare(b=report_of({3: (5, 5)}))
    del desk.reports["b"]
    desk.now_us += REPORT_RETENTION_US + 60 * SECOND_US
    desk.compare(a=report_of({0: (0, 5), 3: (5, 7)}))
    desk.advance(12)
    assert desk.overshoot == 7


def test_slots_that_are_missing_are_not_taken_for_empty() -> None:
    """The audit begins anew after them, with what was spent by then."""
    desk = DetectorBench()
    desk.compare(a=report_of({0: (0, 9)}))
    desk.advance(16)
    # Slot 1 was dropped. In it, who knows, four were given back.
    desk.compare(a=report_of({2: (5, 5)}, first=2))
    desk.advance(16)
    assert (desk.total("callers") > 0, desk.overshoot) == (True, 0)
    desk.compare(a=report_of({2: (5, 5), 6: (10, 3)}, first=2))
    desk.advance(30)
    assert desk.overshoot == 3


def test_a_ledger_that_was_left_alone_for_an_hour_is_closed() -> None:
    """Breaks from that time are not told of any more."""
    desk = DetectorBench()
    desk.compare(a=report_of({0: (0, 9)}))
    desk.advance(16)
    desk.now_us += 3_620 * SECOND_US
    later = 3_640 * SECOND_US // INTERVAL_US
    desk.compare(a=report_of({0: (0, 9), later: (0, 9)}))
    desk.advance(40)
    assert desk.overshoot == 0
    assert desk.findings[-1].callers == 1


def test_a_ledger_is_not_opened_at_a_slot_of_long_ago() -> None:
    """For the same reason, after an outage at the end of which the caller is new to the audit."""
    desk = DetectorBench()
    desk.compare()
    desk.now_us += 1_200 * SECOND_US
    desk.compare(a=report_of({0: (0, 9)}))
    desk.advance(20)
    assert desk.findings[-1].callers == 0


def test_a_ledger_is_opened_by_the_stores_word() -> None:
    """Of several the first, and at no slot in which nothing was asked of the bucket."""
    desk = DetectorBench()
    desk.compare(
        a=report_of({0: (UNKNOWN, -3), 1: (6, 1)}, gives_back=True),
        b=UsageReport.parse(
            dump_report({str(LIMIT): {"ann": (0, 0, {NOW + 1: [3, 4, 2]})}}, {}),
        ),
    )
    desk.advance(40)
    # Four were spent before, three came, and three more were permitted.
    assert (desk.total("permitted"), desk.overshoot) == (6, 0)
    desk.compare(b=report_of({1: (4, 2), 7: (7, 4)}))
    desk.advance(40)
    assert desk.overshoot == 1


def test_a_break_that_lasts() -> None:
    """While its end is not known nothing is judged, and of several the last one counts."""
    desk = DetectorBench()
    desk.compare(a=report_of({2: (0, 9)}, break_us=PENDING), b=report_of(break_us=EPOCH_US))
    desk.advance(30)
    assert desk.findings[-1].callers == 0
    # In the slot that it ends in nobody knows what was before it.
    end_us = EPOCH_US + 7 * INTERVAL_US + 1
    desk.compare(a=report_of({7: (0, 9), 8: (0, 3)}, break_us=end_us))
    desk.advance(LAG_US // SECOND_US)
    assert desk.findings[-1].callers == 0
    desk.advance(20)
    assert (desk.findings[-1].callers, desk.overshoot) == (1, 0)
    assert desk.total("permitted") == 10


def test_who_is_silent_and_gave_back_is_waited_for() -> None:
    """Until its statement is old enough to be left out."""
    desk = DetectorBench()
    desk.compare(a=report_of({0: (0, 4)}), b=report_of({0: (4, 4)}, gives_back=True))
    desk.advance(16)
    assert desk.findings[-1].callers == 1
    del desk.reports["b"]
    desk.compare(a=report_of({0: (0, 4), 6: (4, 2)}))
    desk.advance(20)
    assert desk.findings[-1].callers == 0
    desk.compare(a=report_of({0: (0, 4), 6: (4, 2), 9: (6, 4)}))
    desk.advance(30)
    assert (desk.findings[-1].callers, desk.overshoot) == (1, 0)

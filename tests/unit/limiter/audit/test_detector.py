"""Overshoot detector: when an interval is compared, and when a ledger is reopened."""

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.audit.detector import (
    LAG_US,
    REPORT_RETENTION_US,
    Finding,
    OvershootDetector,
    ReceivedReport,
)
from fleetlimit.limiter.audit.ledger import INTERVAL_US
from fleetlimit.limiter.audit.report import PENDING, UNKNOWN, AuditedLimit, UsageReport, dump_report
from support.clock import EPOCH_US
from support.stores import quota_of

DAY_US = 86_400 * SECOND_US
LIMIT = AuditedLimit("p", quota_of(Algorithm.FIXED_WINDOW, 10, period_us=DAY_US))
NOW = EPOCH_US // INTERVAL_US
"""The interval in which a test begins."""


def report_of(
    figures_by_interval: Mapping[int, Sequence[int]] | None = None,
    *,
    first: int = 0,
    has_refunds: bool = False,
    invalidated_at_us: int | None = None,
) -> UsageReport:
    """Return a report of one caller: for each interval, units spent before and units."""
    intervals = {
        NOW + interval: [7, *figures] for interval, figures in (figures_by_interval or {}).items()
    }
    account = (first and NOW + first, int(has_refunds), intervals)
    invalidations = {} if invalidated_at_us is None else {"fl2:{ann}:p:fw86400": invalidated_at_us}
    return UsageReport.parse(dump_report({str(LIMIT): {"ann": account}}, invalidations))


class DetectorBench:
    """A detector that receives the replicas' reports every two seconds."""

    def __init__(self) -> None:
        self.detector = OvershootDetector(8)
        self.now_us = EPOCH_US
        self.findings: list[Finding] = []
        self.reports: dict[str, UsageReport] = {}

    def compare(self, **reports: UsageReport) -> None:
        """Compare at once; earlier reports are repeated."""
        self.reports.update(reports)
        received = {
            name: ReceivedReport(self.now_us, report) for name, report in self.reports.items()
        }
        self.findings += self.detector.compare(self.now_us, received).values()

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
        """Return the overshoot found so far."""
        return sum(units for each in self.findings for units in each.overshoot.values())


def test_detector_compares_an_interval_after_the_lag() -> None:
    """An interval is compared ten seconds after its end, and not before."""
    bench = DetectorBench()
    bench.compare(a=report_of({0: (0, 11)}))
    bench.advance(14)
    assert (bench.total("intervals"), bench.overshoot) == (0, 0)
    bench.advance(2)
    assert (bench.total("intervals"), bench.overshoot) == (1, 1)


def test_detector_waits_for_all_reports_after_an_outage() -> None:
    """The first replica back compares nothing by its own report alone."""
    bench = DetectorBench()
    bench.compare(a=report_of({0: (0, 6)}), b=report_of({0: (0, 4)}))
    bench.advance(16)
    bench.now_us += 60 * SECOND_US
    compared = bench.total("intervals")
    bench.compare(a=report_of({0: (0, 6), 3: (4, 6)}))
    bench.advance(6)
    assert bench.total("intervals") == compared
    # The other replica had refunded in time, and reports last.
    bench.compare(b=report_of({0: (0, 4), 3: (UNKNOWN, -6)}, has_refunds=True))
    bench.advance(6)
    assert bench.total("intervals") > compared
    assert bench.overshoot == 0


def test_detector_uses_reports_from_before_an_outage() -> None:
    """A replica's last report counts, however long the outage was."""
    bench = DetectorBench()
    bench.compare(a=report_of({0: (0, 5)}), b=report_of())
    bench.advance(16)
    bench.compare(b=report_of({3: (5, 5)}))
    del bench.reports["b"]
    bench.now_us += REPORT_RETENTION_US + 60 * SECOND_US
    bench.compare(a=report_of({0: (0, 5), 3: (5, 7)}))
    bench.advance(12)
    assert bench.overshoot == 7


def test_detector_reopens_a_ledger_after_missing_intervals() -> None:
    """The ledger is reopened with the units spent by then."""
    bench = DetectorBench()
    bench.compare(a=report_of({0: (0, 9)}))
    bench.advance(16)
    # Interval 1 was dropped. Four units may have been refunded in it.
    bench.compare(a=report_of({2: (5, 5)}, first=2))
    bench.advance(16)
    assert (bench.total("callers") > 0, bench.overshoot) == (True, 0)
    bench.compare(a=report_of({2: (5, 5), 6: (10, 3)}, first=2))
    bench.advance(30)
    assert bench.overshoot == 3


def test_detector_closes_a_ledger_after_an_hour() -> None:
    """Invalidations from that time are no longer reported."""
    bench = DetectorBench()
    bench.compare(a=report_of({0: (0, 9)}))
    bench.advance(16)
    bench.now_us += 3_620 * SECOND_US
    later = 3_640 * SECOND_US // INTERVAL_US
    bench.compare(a=report_of({0: (0, 9), later: (0, 9)}))
    bench.advance(40)
    assert bench.overshoot == 0
    assert bench.findings[-1].callers == 1


def test_detector_opens_no_ledger_at_an_old_interval() -> None:
    """For the same reason, for a caller that is new to the audit after an outage."""
    bench = DetectorBench()
    bench.compare()
    bench.now_us += 1_200 * SECOND_US
    bench.compare(a=report_of({0: (0, 9)}))
    bench.advance(20)
    assert bench.findings[-1].callers == 0


def test_detector_opens_a_ledger_at_a_known_balance() -> None:
    """The first known balance counts, and never an interval with refunds only."""
    bench = DetectorBench()
    bench.compare(
        a=report_of({0: (UNKNOWN, -3), 1: (6, 1)}, has_refunds=True),
        b=UsageReport.parse(
            dump_report({str(LIMIT): {"ann": (0, 0, {NOW + 1: [3, 4, 2]})}}, {}),
        ),
    )
    bench.advance(40)
    # Four units were spent before, three were admitted, and three more permitted.
    assert (bench.total("permitted"), bench.overshoot) == (6, 0)
    bench.compare(b=report_of({1: (4, 2), 7: (7, 4)}))
    bench.advance(40)
    assert bench.overshoot == 1


def test_detector_ignores_a_pending_invalidation() -> None:
    """While its end is not known nothing is compared; the last of several counts."""
    bench = DetectorBench()
    bench.compare(
        a=report_of({2: (0, 9)}, invalidated_at_us=PENDING), b=report_of(invalidated_at_us=EPOCH_US)
    )
    bench.advance(30)
    assert bench.findings[-1].callers == 0
    # In the interval of its end the balance before it is unknown.
    end_us = EPOCH_US + 7 * INTERVAL_US + 1
    bench.compare(a=report_of({7: (0, 9), 8: (0, 3)}, invalidated_at_us=end_us))
    bench.advance(LAG_US // SECOND_US)
    assert bench.findings[-1].callers == 0
    bench.advance(20)
    assert (bench.findings[-1].callers, bench.overshoot) == (1, 0)
    assert bench.total("permitted") == 10


def test_detector_waits_for_a_replica_with_refunds() -> None:
    """Until its report is too old to be used."""
    bench = DetectorBench()
    bench.compare(a=report_of({0: (0, 4)}), b=report_of({0: (4, 4)}, has_refunds=True))
    bench.advance(16)
    assert bench.findings[-1].callers == 1
    del bench.reports["b"]
    bench.compare(a=report_of({0: (0, 4), 6: (4, 2)}))
    bench.advance(20)
    assert bench.findings[-1].callers == 0
    bench.compare(a=report_of({0: (0, 4), 6: (4, 2), 9: (6, 4)}))
    bench.advance(30)
    assert (bench.findings[-1].callers, bench.overshoot) == (1, 0)

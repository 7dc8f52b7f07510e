"""The comparison: where it begins, what it waits for, and when it begins anew."""

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlimit.core.quota import SECOND_US, Algorithm
from fleetlimit.limiter.audit.detector import KEPT_US, LAG_US, Auditor, Finding
from fleetlimit.limiter.audit.ledger import SLOT_US
from fleetlimit.limiter.audit.report import NO_WORD, PENDING, Limit, Statement, write
from support.clock import EPOCH_US
from support.stores import quota_of

DAY_US = 86_400 * SECOND_US
LIMIT = Limit("p", quota_of(Algorithm.FIXED_WINDOW, 10, period_us=DAY_US))
NOW = EPOCH_US // SLOT_US
"""The slot in which a test begins."""


def said(
    slots: Mapping[int, Sequence[int]] | None = None,
    *,
    first: int = 0,
    gives_back: bool = False,
    break_us: int | None = None,
) -> Statement:
    """Return a statement of one caller: for each slot from now on, spent before and units."""
    written = {NOW + slot: [7, *figures] for slot, figures in (slots or {}).items()}
    account = (first and NOW + first, int(gives_back), written)
    breaks = {} if break_us is None else {"fl1:{ann}:p:fw86400": break_us}
    return Statement.parse(write({str(LIMIT): {"ann": account}}, breaks))


class Desk:
    """An auditor that hears what replicas state, every two seconds."""

    def __init__(self) -> None:
        self.auditor = Auditor(8)
        self.now_us = EPOCH_US
        self.findings: list[Finding] = []
        self.stated: dict[str, Statement] = {}

    def hear(self, **stated: Statement) -> None:
        """Compare at once; what was stated before is stated again."""
        self.stated.update(stated)
        heard = {name: (self.now_us, statement) for name, statement in self.stated.items()}
        self.findings += self.auditor.compare(self.now_us, heard).values()

    def listen(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(0, seconds, 2):
            self.now_us += 2 * SECOND_US
            self.hear()

    def total(self, figure: str) -> Any:
        """Return the sum of a figure."""
        return sum(getattr(each, figure) for each in self.findings)

    @property
    def beyond(self) -> int:
        """What was found."""
        return sum(units for each in self.findings for units in each.beyond.values())


def test_a_slot_is_judged_when_all_had_the_time_to_state_it() -> None:
    """Ten seconds after its end, and not before."""
    desk = Desk()
    desk.hear(a=said({0: (0, 11)}))
    desk.listen(14)
    assert (desk.total("windows"), desk.beyond) == (0, 0)
    desk.listen(2)
    assert (desk.total("windows"), desk.beyond) == (1, 1)


def test_after_an_outage_all_have_the_time_once_more() -> None:
    """The first who is back judges nothing by what it alone has stated."""
    desk = Desk()
    desk.hear(a=said({0: (0, 6)}), b=said({0: (0, 4)}))
    desk.listen(16)
    desk.now_us += 60 * SECOND_US
    judged = desk.total("windows")
    desk.hear(a=said({0: (0, 6), 3: (4, 6)}))
    desk.listen(6)
    assert desk.total("windows") == judged
    # The other one had given back in time, and says so last.
    desk.hear(b=said({0: (0, 4), 3: (NO_WORD, -6)}, gives_back=True))
    desk.listen(6)
    assert desk.total("windows") > judged
    assert desk.beyond == 0


def test_who_did_not_come_back_from_an_outage_is_heard() -> None:
    """What it stated before counts, however long ago that was."""
    desk = Desk()
    desk.hear(a=said({0: (0, 5)}), b=said())
    desk.listen(16)
    desk.hear(b=said({3: (5, 5)}))
    del desk.stated["b"]
    desk.now_us += KEPT_US + 60 * SECOND_US
    desk.hear(a=said({0: (0, 5), 3: (5, 7)}))
    desk.listen(12)
    assert desk.beyond == 7


def test_slots_that_are_missing_are_not_taken_for_empty() -> None:
    """The audit begins anew after them, with what was spent by then."""
    desk = Desk()
    desk.hear(a=said({0: (0, 9)}))
    desk.listen(16)
    # Slot 1 was dropped. In it, who knows, four were given back.
    desk.hear(a=said({2: (5, 5)}, first=2))
    desk.listen(16)
    assert (desk.total("keys") > 0, desk.beyond) == (True, 0)
    desk.hear(a=said({2: (5, 5), 6: (10, 3)}, first=2))
    desk.listen(30)
    assert desk.beyond == 3


def test_a_ledger_that_was_left_alone_for_an_hour_is_closed() -> None:
    """Breaks from that time are not told of any more."""
    desk = Desk()
    desk.hear(a=said({0: (0, 9)}))
    desk.listen(16)
    desk.now_us += 3_620 * SECOND_US
    later = 3_640 * SECOND_US // SLOT_US
    desk.hear(a=said({0: (0, 9), later: (0, 9)}))
    desk.listen(40)
    assert desk.beyond == 0
    assert desk.findings[-1].keys == 1


def test_a_ledger_is_not_opened_at_a_slot_of_long_ago() -> None:
    """For the same reason, after an outage at the end of which the caller is new to the audit."""
    desk = Desk()
    desk.hear()
    desk.now_us += 1_200 * SECOND_US
    desk.hear(a=said({0: (0, 9)}))
    desk.listen(20)
    assert desk.findings[-1].keys == 0


def test_a_ledger_is_opened_by_the_stores_word() -> None:
    """Of several the first, and at no slot in which nothing was asked of the bucket."""
    desk = Desk()
    desk.hear(
        a=said({0: (NO_WORD, -3), 1: (6, 1)}, gives_back=True),
        b=Statement.parse(
            write({str(LIMIT): {"ann": (0, 0, {NOW + 1: [3, 4, 2]})}}, {}),
        ),
    )
    desk.listen(40)
    # Four were spent before, three came, and three more were permitted.
    assert (desk.total("permitted"), desk.beyond) == (6, 0)
    desk.hear(b=said({1: (4, 2), 7: (7, 4)}))
    desk.listen(40)
    assert desk.beyond == 1


def test_a_break_that_lasts() -> None:
    """While its end is not known nothing is judged, and of several the last one counts."""
    desk = Desk()
    desk.hear(a=said({2: (0, 9)}, break_us=PENDING), b=said(break_us=EPOCH_US))
    desk.listen(30)
    assert desk.findings[-1].keys == 0
    # In the slot that it ends in nobody knows what was before it.
    end_us = EPOCH_US + 7 * SLOT_US + 1
    desk.hear(a=said({7: (0, 9), 8: (0, 3)}, break_us=end_us))
    desk.listen(LAG_US // SECOND_US)
    assert desk.findings[-1].keys == 0
    desk.listen(20)
    assert (desk.findings[-1].keys, desk.beyond) == (1, 0)
    assert desk.total("permitted") == 10


def test_who_is_silent_and_gave_back_is_waited_for() -> None:
    """Until its statement is old enough to be left out."""
    desk = Desk()
    desk.hear(a=said({0: (0, 4)}), b=said({0: (4, 4)}, gives_back=True))
    desk.listen(16)
    assert desk.findings[-1].keys == 1
    del desk.stated["b"]
    desk.hear(a=said({0: (0, 4), 6: (4, 2)}))
    desk.listen(20)
    assert desk.findings[-1].keys == 0
    desk.hear(a=said({0: (0, 4), 6: (4, 2), 9: (6, 4)}))
    desk.listen(30)
    assert (desk.findings[-1].keys, desk.beyond) == (1, 0)

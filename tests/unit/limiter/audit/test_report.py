"""A statement is read as it was written, and whatever else it is it says nothing."""

import json

import pytest

from fleetlimit.core.quota import Algorithm, Quota
from fleetlimit.limiter.audit.ledger import SLOT_US
from fleetlimit.limiter.audit.report import (
    NO_WORD,
    PENDING,
    Account,
    Limit,
    Spent,
    Statement,
    read_bounds,
    write,
    write_bounds,
)
from support.stores import MINUTE_US, quota_of

LIMIT = Limit("exports", quota_of(Algorithm.TOKEN_BUCKET, 10, burst=20))
NOTHING = Statement({}, {})


def test_a_statement_comes_back() -> None:
    """With its limits, callers, slots and breaks."""
    slots = {1: [7, 3, 2], 2: [SLOT_US - 1, NO_WORD, -1]}
    breaks = {"fl1:{ann}:exports:tb60": PENDING, "fl1:{route}:exports:fw1:ann": 7}
    text = write({str(LIMIT): {"ann": (1, 0, slots), "bob": (0, 1, {})}}, breaks)
    found = Statement.parse(text)
    assert found.breaks == {("exports", "tb60", "ann"): PENDING, ("exports", "fw1", "route:ann"): 7}
    ann, bob = (found.accounts[LIMIT][caller] for caller in ("ann", "bob"))
    assert (ann.first, ann.gives_back, sorted(ann.slots)) == (1, False, ["1", "2"])
    assert [ann.spent(slot) for slot in (1, 2, 3)] == [
        Spent(7, 3, 2),
        Spent(SLOT_US - 1, NO_WORD, -1),
        None,
    ]
    assert bob == Account(0, gives_back=True, slots={})


@pytest.mark.parametrize("figures", [1, [1, 2], [1, 2, None], [1, 2, 1e999], {"a": 1}])
def test_figures_that_are_none_say_nothing(figures: object) -> None:
    """They are looked at when they are needed."""
    text = write({str(LIMIT): {"ann": (1, 0, {5: figures})}}, {})
    assert Statement.parse(text).accounts[LIMIT]["ann"].spent(5) is None


def test_a_limit_comes_back_without_its_cost() -> None:
    """What a request costs under it is no part of the limit."""
    dear = Limit.of("exports", Quota(Algorithm.TOKEN_BUCKET, 10, MINUTE_US, 20, cost=5))
    assert dear == LIMIT
    assert Limit.parse(str(dear)) == LIMIT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "7",
        "{}",
        '{"accounts": {}}',
        '{"accounts": [], "breaks": {}}',
        '{"accounts": {}, "breaks": {"bucket": 7}}',
        '{"accounts": {}, "breaks": {"fl1:{ann}:exports": 7}}',
        '{"accounts": {}, "breaks": {"fl1:{ann}:exports:tb60": "never"}}',
        '{"accounts": {"exports": {}}, "breaks": {}}',
        '{"accounts": {"exports no_algorithm 1 1000 1": {}}, "breaks": {}}',
        '{"accounts": {"exports token_bucket 0 60000000 20": {}}, "breaks": {}}',
        json.dumps({"accounts": {str(LIMIT): {"ann": 1}}, "breaks": {}}),
        json.dumps({"accounts": {str(LIMIT): {"ann": [0, 0, [1]]}}, "breaks": {}}),
        json.dumps({"accounts": {str(LIMIT): {"ann": [1e999, 0, {}]}}, "breaks": {}}),
        "[" * 100_000,
    ],
)
def test_what_is_no_statement_says_nothing(text: str) -> None:
    """It may be from another release, or from somebody else."""
    assert Statement.parse(text) == NOTHING


def test_bounds_come_back() -> None:
    """And what are no bounds is not known."""
    bounds = {str(LIMIT): 7}
    assert read_bounds(write_bounds(bounds)) == bounds
    assert read_bounds(write_bounds({})) == {}
    for text in ("", "[]", "[1]", '{"a": "b"}', '{"a": null}', "[" * 100_000):
        assert read_bounds(text) is None

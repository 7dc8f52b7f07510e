"""Most-denied subjects, within the error bound and in bounded memory."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.decision import Outcome
from fleetlimit.limiter.events import StoreStateLost
from fleetlimit.telemetry.top_denied import DeniedSubject, SpaceSaving, TopDenied
from support.telemetry import decision_event, policy_result

STREAM = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), max_size=300)


def true_counts(stream: list[tuple[int, int]]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for key, number in stream:
        counts[key] += number
    return counts


@given(STREAM, st.integers(1, 15))
def test_count_is_within_its_error(stream: list[tuple[int, int]], capacity: int) -> None:
    """A reported count is at least the true one, and at most its error above it."""
    counter: SpaceSaving[int] = SpaceSaving(capacity)
    for key, number in stream:
        counter.add(key, number)
    true = true_counts(stream)
    top = counter.top(capacity)
    assert all(count - error <= true[key] <= count for key, count, error in top)
    assert [count for _, count, _ in top] == sorted((count for _, count, _ in top), reverse=True)
    assert sum(count for _, count, _ in top) == true.total()
    assert len(top) <= capacity


@given(STREAM, st.integers(1, 15))
def test_every_frequent_key_is_kept(stream: list[tuple[int, int]], capacity: int) -> None:
    """A key seen more than total / capacity times is in the table (theorem 1)."""
    counter: SpaceSaving[int] = SpaceSaving(capacity)
    for key, number in stream:
        counter.add(key, number)
    kept = {key for key, _, _ in counter.top(capacity)}
    true = true_counts(stream)
    assert {key for key, n in true.items() if n * capacity > true.total()} <= kept


def test_counts_are_exact_while_there_is_room() -> None:
    """With fewer keys than counters every count is exact."""
    counter: SpaceSaving[str] = SpaceSaving(3)
    for key in "abacab":
        counter.add(key)
    assert counter.top() == [("a", 3, 0), ("b", 2, 0), ("c", 1, 0)]


def test_denials_are_counted_per_policy_and_subject() -> None:
    """A denial counts once for each policy that denied it, under the hash of the subject."""
    top = TopDenied()
    both = (
        policy_result("a", Outcome.DENIED),
        policy_result("b", Outcome.DENIED),
        policy_result("c"),
    )
    top.on_event(decision_event(Outcome.DENIED, *both, subject="s1"))
    top.on_event(decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), subject="s1"))
    assert top.report() == [DeniedSubject("a", "s1", 2, 0), DeniedSubject("b", "s1", 1, 0)]
    assert top.report(1) == [DeniedSubject("a", "s1", 2, 0)]


def test_flood_counts_every_denial_of_its_subject() -> None:
    """A decision object returned many times counts each time, for the subject of the event."""
    top = TopDenied()
    flood = decision_event(Outcome.DENIED, policy_result("a", Outcome.DENIED), subject="s1")
    for event in (flood, flood, replace(flood, subject_hash="s2"), flood):
        top.on_event(event)
    expected = [DeniedSubject("a", "s1", 3, 0), DeniedSubject("a", "s2", 1, 0)]
    assert top.report() == expected
    top.on_event(flood)
    assert top.report(1) == [DeniedSubject("a", "s1", 4, 0)]


def test_only_denials_are_counted() -> None:
    """Admitted requests, rejections without the store and other events are not counted."""
    top = TopDenied()
    for outcome in set(Outcome) - {Outcome.DENIED}:
        top.on_event(decision_event(outcome))
    top.on_event(StoreStateLost())
    assert top.report() == []

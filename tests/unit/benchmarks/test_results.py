"""What is said of measured figures: medians, spread, ratios within a round, and targets."""

from dataclasses import replace

import pytest

from harness.lineup import MIDDLEWARE, PEERS
from harness.results import Scene
from harness.served import turns
from harness.targets import TARGETS, Target


@pytest.fixture
def scene() -> Scene:
    """Return a scene of two rounds, the second on a machine half as fast."""
    found = Scene("allow", "allow path")
    for speed in (2.0, 1.0):
        found.add("bare", {"requests/s": 100 * speed})
        found.add(MIDDLEWARE.name, {"requests/s": 80 * speed})
    return found


def test_a_contender_is_compared_within_its_round(scene: Scene) -> None:
    """What slows a whole round down changes no ratio."""
    scene.compare("requests/s", "bare")
    assert scene.values(MIDDLEWARE.name, "of bare") == [0.8, 0.8]


def test_a_summary_has_median_and_spread(scene: Scene) -> None:
    """The middle, the ends and every round are kept."""
    assert scene.summary()[MIDDLEWARE.name]["requests/s"] == {
        "median": 120.0,
        "least": 80.0,
        "most": 160.0,
        "rounds": [160.0, 80.0],
    }


def test_what_was_not_measured_has_no_median(scene: Scene) -> None:
    """A figure or a contender that is not there is nothing, and no error."""
    assert scene.median("bare", "p99 ms") is None
    assert scene.median("nobody", "requests/s") is None


def test_every_contender_begins_a_round_once() -> None:
    """Who comes first has no better time of it than the others."""
    orders = [each.name for each in turns(PEERS[:3], 3)]
    assert [orders[at] for at in (0, 3, 6)] == [each.name for each in PEERS[:3]]
    assert all(len({*orders[at : at + 3]}) == 3 for at in (0, 3, 6))


def test_targets_say_nothing_of_what_was_not_measured(scene: Scene) -> None:
    """One scene alone answers only the targets that it is about."""
    scene.compare("requests/s", "bare")
    found = [target.what for target in TARGETS if target.found({"allow": scene}) is not None]
    assert found == ["allow, middleware, of bare"]


def test_a_target_is_met_at_its_bound() -> None:
    """At least and at most both include the figure itself."""
    target = Target("x", 0.5, lambda _: None)
    assert target.met(0.5)
    assert not target.met(0.49)
    most = replace(target, most=True)
    assert most.met(0.5)
    assert not most.met(0.51)

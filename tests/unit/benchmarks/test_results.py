"""Statistics of measured figures, and the targets that they are compared with."""

from dataclasses import replace

import pytest

from harness.lineup import MIDDLEWARE, PEERS
from harness.results import Scene
from harness.targets import TARGETS, Target
from harness.throughput import turns


@pytest.fixture
def scene() -> Scene:
    """Return a scene of two rounds, the second on a machine half as fast."""
    found = Scene("allow", "allow path")
    for speed in (2.0, 1.0):
        found.add("bare", {"requests/s": 100 * speed})
        found.add(MIDDLEWARE.name, {"requests/s": 80 * speed})
    return found


def test_scene_compares_contenders_within_a_round(scene: Scene) -> None:
    """A slower round changes no ratio."""
    scene.compare("requests/s", "bare")
    assert scene.values(MIDDLEWARE.name, "of bare") == [0.8, 0.8]


def test_scene_summary_has_median_range_and_rounds(scene: Scene) -> None:
    """The summary of a figure has its median, minimum, maximum and every round."""
    assert scene.summary()[MIDDLEWARE.name]["requests/s"] == {
        "median": 120.0,
        "least": 80.0,
        "most": 160.0,
        "rounds": [160.0, 80.0],
    }


def test_scene_has_no_median_of_what_was_not_measured(scene: Scene) -> None:
    """The median of an unknown figure or contender is None."""
    assert scene.median("bare", "p99 ms") is None
    assert scene.median("unknown", "requests/s") is None


def test_turns_begin_each_round_with_another_contender() -> None:
    """Every contender is first once, so that the first place favours none."""
    orders = [each.name for each in turns(PEERS[:3], 3)]
    assert [orders[at] for at in (0, 3, 6)] == [each.name for each in PEERS[:3]]
    assert all(len({*orders[at : at + 3]}) == 3 for at in (0, 3, 6))


def test_targets_skip_scenes_that_were_not_measured(scene: Scene) -> None:
    """One scene alone yields only its own targets."""
    scene.compare("requests/s", "bare")
    found = [target.name for target in TARGETS if target.measure({"allow": scene}) is not None]
    assert found == ["allow, middleware, of bare"]


def test_target_is_met_at_its_bound() -> None:
    """Both minimum and maximum include the bound itself."""
    target = Target("x", 0.5, lambda _: None)
    assert target.is_met(0.5)
    assert not target.is_met(0.49)
    maximum = replace(target, is_maximum=True)
    assert maximum.is_met(0.5)
    assert not maximum.is_met(0.51)

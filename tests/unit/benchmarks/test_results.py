"""Statistics of measured figures, and the targets that they are compared with."""

from array import array
from dataclasses import replace

import pytest

from harness.lineup import MIDDLEWARE, PEERS
from harness.load import LoadResult
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


def test_scene_subtracts_the_base_within_a_round(scene: Scene) -> None:
    """A difference is one of the same round, and negative below the base."""
    scene.subtract("requests/s", "bare")
    assert scene.values(MIDDLEWARE.name, "above bare") == [-40, -20]
    assert scene.values("bare", "above bare") == [0, 0]


def test_scene_leaves_out_comparisons_without_a_base(scene: Scene) -> None:
    """Neither a base that was not measured nor one of 0 gives a ratio."""
    scene.compare("requests/s", "limits")
    scene.subtract("requests/s", "limits")
    scene.add("limits", {"requests/s": 0.0})
    scene.compare("requests/s", "limits")
    assert scene.figures() == ["requests/s"]


def test_scene_includes_another_scene_under_a_label(scene: Scene) -> None:
    """The contenders of the same scene on 1 and on 4 connections are different rows."""
    scene.whole["bare"] = {"p99 ms": 3.0}
    both = Scene("curve", "by connections")
    both.include(scene, "1 connections")
    both.include(scene, "4 connections")
    assert list(both.summary()) == [
        f"{name}, {connections} connections"
        for connections in (1, 4)
        for name in ("bare", MIDDLEWARE.name)
    ]
    assert both.values("bare, 4 connections", "requests/s") == [200, 100]
    assert both.median("bare, 4 connections", "p99 ms") == 3.0


def test_scene_keeps_only_chosen_figures(scene: Scene) -> None:
    """The other figures are dropped from the rounds and from the whole."""
    scene.whole["bare"] = {"p50 ms": 1.0, "p99 ms": 3.0}
    scene.keep("p99 ms", "not measured")
    assert scene.figures() == ["p99 ms"]


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


def test_percentile_of_a_run_is_that_of_all_requests() -> None:
    """A slow turn with 2 % of the requests moves the p99 of the run, unlike a median of p99s."""
    run = LoadResult()
    for latency, requests in ((0.001, 490), (0.2, 20), (0.001, 490)):
        run.add(LoadResult(seconds=0.25, latencies=array("d", [latency] * requests)))
    assert run.responses == 1_000
    assert run.quantile_ms(0.99) == pytest.approx(200)
    assert run.quantile_ms(0.5) == pytest.approx(1)


def test_figure_of_all_rounds_stands_for_them(scene: Scene) -> None:
    """A figure of the whole run has one value, without a range over the rounds."""
    scene.whole[MIDDLEWARE.name] = {"p99 ms": 3.0}
    assert scene.figures() == ["requests/s", "p99 ms"]
    assert scene.median(MIDDLEWARE.name, "p99 ms") == 3.0
    assert scene.summary()[MIDDLEWARE.name]["p99 ms"]["rounds"] == [3.0]
    assert "p99 ms" not in scene.summary()["bare"]

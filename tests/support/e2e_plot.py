"""Plots of a run: admitted requests against the permitted number, and results over time."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import add
from typing import Any, Final, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fleetlimit.core.quota import SECOND_US, Algorithm, Quota
from support import e2e_figure as drawn
from support import e2e_series as series
from support.e2e_figure import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from support.e2e_load import Answers
from support.e2e_report import Run
from support.e2e_tally import tally

_PODS: Final = (SKY, ORANGE, GREEN, YELLOW, PURPLE, BLUE)
_HATCHES: Final = ("", "////", "\\\\\\\\", "----", "||||")
_KINDS: Final = dict(zip(series.KINDS, (GREEN, ORANGE, PURPLE, VERMILION, SKY, BLACK), strict=True))
_UNSEEN, _ALARM = "#DDDDDD", "#FBE3D6"
# Drawing order: above the grid (0.5) and below the lines (1 and above).
_PODS_ORDER, _UNSEEN_ORDER = 0.9, 0.6
_HEIGHT = 1.9


def admitted(run: Run) -> Figure:
    """Draw the admitted and the permitted number of requests of each policy."""
    policies = [each for each in run.quotas if run.answers.of(policy=each).requests]
    title = f"{run.row.experiment}: admitted requests of each pod, and the permitted number"
    at = series.times(run.answers.start_us, run.answers.end_us)
    with drawn.style():
        figure, panels = drawn.frame(run, title, [_HEIGHT] * len(policies))
        for policy, panel in zip(policies, panels, strict=True):
            _draw_policy(panel, run, policy, at)
        drawn.legend(figure, panels)
    return figure


def answers(run: Run) -> Figure:
    """Draw the rate of each kind of result, and the response times."""
    title = f"{run.row.experiment}: responses by status, and response times"
    start_us, end_us = run.answers.start_us, run.answers.end_us
    at = [start_us + each for each in series.times(0, end_us - start_us, least_us=SECOND_US)]
    with drawn.style():
        figure, (rates, latency) = drawn.frame(run, title, [_HEIGHT] * 2)
        _draw_kinds(rates, run, at)
        _draw_latency(latency, run, at)
        drawn.legend(figure, (rates, latency))
    return figure


def _draw_policy(panel: Axes, run: Run, policy: str, at: Sequence[int]) -> None:
    quota = run.quotas[policy]
    mine = run.answers.of(policy=policy)
    at = series.times_of(mine, at)
    seconds = drawn.seconds(run, at)
    admitted_count = series.admitted_by_clients(mine, at)
    due = series.permitted_to_all(quota, mine, at)
    promised = series.promised_to_all(mine, policy, run.promise, at)
    most = list(map(add, due, promised))
    found = tally(policy, quota, mine, run.promise)
    over = found.beyond_promise
    step: Literal["post"] | None = None if quota.algorithm is Algorithm.TOKEN_BUCKET else "post"
    limit: dict[str, Any] = {
        "color": VERMILION,
        "lw": 1.8,
        "drawstyle": f"steps-{step}" if step else "default",
    }
    panel.plot(seconds, due, label="permitted", **limit)
    if promised[-1]:
        panel.plot(seconds, most, ls=":", label="promised in an outage of the store", **limit)
    panel.plot(seconds, admitted_count, color=BLACK, lw=1.2, label="admitted, counted by clients")
    # Requests that a pod admitted between the last reading of its counters and its end.
    unseen: dict[str, Any] = {"color": _UNSEEN, "lw": 0, "label": "counted only by clients"}
    panel.fill_between(seconds, admitted_count, zorder=_UNSEEN_ORDER, **unseen)
    _stack(panel, seconds, series.admitted_by_pods(run.watch.readings, policy, at))
    if over:
        panel.set_facecolor(_ALARM)
        above_it = list(map(max, admitted_count, most))
        panel.fill_between(seconds, most, above_it, step=step, color=VERMILION, lw=0)
    height = max(due[-1], admitted_count[-1])
    # A limit far above the admitted number would flatten the areas.
    panel.set_ylim(0, 1.06 * (most[-1] if height < most[-1] <= 2 * height else height))
    panel.set_ylabel("requests")
    panel.set_title(f"{policy}: {_described(quota, mine)}", loc="left")
    panel.set_title(
        f"admitted {admitted_count[-1]} of {due[-1]}; beyond the policy {found.beyond_policy}, "
        f"the promise {over}",
        loc="right",
        color=VERMILION if over else BLACK,
        weight="bold" if over else "normal",
    )


def _stack(panel: Axes, seconds: Sequence[float], pods: Mapping[str, Sequence[float]]) -> None:
    top = [0.0] * len(seconds)
    for number, (pod, counts) in enumerate(pods.items()):
        top = [low + count for low, count in zip(top, counts, strict=True)]
        # From the last point at which the count was 0, and only where the slope changes.
        first, last = max(0, sum(not count for count in counts) - 1), len(top) - 1
        bends = [
            each
            for each in range(first, len(top))
            if each in {first, last} or not top[each - 1] == top[each] == top[each + 1]
        ]
        panel.fill(
            [seconds[first], *(seconds[each] for each in bends), seconds[last]],
            [0, *(top[each] for each in bends), 0],
            label=pod.rpartition("-")[2],
            facecolor=_PODS[number % len(_PODS)],
            hatch=_HATCHES[number // len(_PODS) % len(_HATCHES)],
            edgecolor="white",
            lw=0.4,
            zorder=_PODS_ORDER - number / 1000,  # in front of the areas stacked on top
        )


def _described(quota: Quota, answers: Answers) -> str:
    algorithm = quota.algorithm.replace("_", " ")
    burst = f", burst {quota.burst}" if quota.algorithm is Algorithm.TOKEN_BUCKET else ""
    callers = len({each.stream.caller for each in answers.requests})
    whose = f"each of {callers} callers" if callers > 1 else "one caller"
    return f"{algorithm}, {quota.limit} per {quota.period_us / SECOND_US:g} s{burst}, for {whose}"


def _draw_kinds(panel: Axes, run: Run, at: Sequence[int]) -> None:
    found = series.kinds(run.answers, at)
    # The last step lasts to the end.
    counts = [[*each, each[-1]] for each in found.values()]
    colors = [_KINDS[kind] for kind in found]
    panel.stackplot(drawn.seconds(run, at), counts, labels=found, colors=colors, step="post")
    panel.set_ylabel("requests per second")


def _draw_latency(panel: Axes, run: Run, at: Sequence[int]) -> None:
    middle = drawn.seconds(run, [(start + end) // 2 for start, end in pairwise(at)])
    for name, share, form, color in (
        ("slowest", 1.0, ".", BLACK),
        ("p99", 0.99, "-", VERMILION),
        ("p50", 0.5, "-", BLUE),
    ):
        latencies = series.latencies_ms(run.answers, share, at)
        panel.plot(middle, latencies, form, color=color, label=name, lw=1.3, ms=3)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("milliseconds, log scale")

"""Keeps what was seen of an experiment as JSON, so that it can be counted and drawn again."""

import json
from collections.abc import Mapping

from support.e2e_load import Answers
from support.e2e_watch import Watch


def keep(answers: Answers, watch: Watch, beyond: Mapping[str, int]) -> None:
    """Write all requests, looks and marks into the folder of an experiment.

    A request is `[policy, caller, sent_us, taken_us, status]`, its fault standing for a status; a
    look `[at_us, pod, [[policy, outcome, count], ...]]`; a mark `[at_us, what]`; what a caller may
    get beyond its quota `[policy, count]`.
    """
    kept: dict[str, list[tuple[object, ...]]] = {
        "requests": [
            (
                each.stream.policy,
                each.stream.caller,
                each.sent_us,
                each.taken_us,
                each.fault or each.status,
            )
            for each in answers.requests
        ],
        "looks": [
            (each.at_us, each.pod, [(*key, count) for key, count in each.decisions.items()])
            for each in watch.looks
        ],
        "marks": [(each.at_us, each.what) for each in watch.marks],
        "beyond": [*beyond.items()],
    }
    for name, found in kept.items():
        text = json.dumps(found, separators=(",", ":"))
        (watch.folder / f"{name}.json").write_text(text + "\n")

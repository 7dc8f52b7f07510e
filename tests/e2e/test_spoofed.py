"""Experiment 8: a caller invents identities."""

from collections.abc import Mapping
from typing import Final

import pytest

from support.e2e_load import Load, Stream
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_scene import QUOTAS, ROUTES
from support.e2e_watch import Watch

# {"alg":"none"}, for a subject of its own each time.
_UNSIGNED = "Bearer eyJhbGciOiJub25lIn0.{random}."
FORGED: Final[tuple[Mapping[str, str], ...]] = (
    {},
    {"X-API-Key": "{random}"},
    {"X-Forwarded-For": "{address}"},
    {"X-Forwarded-For": "{address}, {address}", "X-Real-IP": "{address}"},
    {"Forwarded": 'for="[{address}]"'},
    {"Authorization": _UNSIGNED},
    {"X-API-Key": "{random}", "X-Forwarded-For": "{address}", "Authorization": _UNSIGNED},
)


@pytest.mark.experiment(number=8)
def test_spoofed(release: Release, image: str, watch: Watch, report: Report) -> None:
    """Whatever a client writes into its requests, its address has one bucket."""
    streams = [Stream("spoofed", "address", *ROUTES["spoofed"], 4, each) for each in FORGED]
    with Load(release, image, "spoofed", streams, 8) as load:
        answers = load.answers()
    row = report.record("spoofed", answers, watch)
    assert set(answers.statuses) == {200, 429}
    row.expect(overshoot=0, admitted=QUOTAS["spoofed"].burst)

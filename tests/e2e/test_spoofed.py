"""Experiment 8: a caller forges identities."""

import secrets
from collections.abc import Mapping
from typing import Final

import pytest

from support.e2e_load import Load, Stream
from support.e2e_release import Release
from support.e2e_report import Report
from support.e2e_setup import QUOTAS, ROUTES
from support.e2e_tokens import AUDIENCE, ISSUER, KID, token
from support.e2e_watch import Watch

# {"alg":"none"}, with a new subject in each request.
_UNSIGNED = "Bearer eyJhbGciOiJub25lIn0.{random}."
HEADERS: Final[tuple[Mapping[str, str], ...]] = (
    {},
    {"X-API-Key": "{random}"},
    {"X-Forwarded-For": "{address}"},
    {"X-Forwarded-For": "{address}, {address}", "X-Real-IP": "{address}"},
    {"Forwarded": 'for="[{address}]"'},
    {"Authorization": _UNSIGNED},
    {"X-API-Key": "{random}", "X-Forwarded-For": "{address}", "Authorization": _UNSIGNED},
)
FORGE: Final = {"kid": KID, "claims": {"iss": ISSUER, "aud": AUDIENCE}}


@pytest.mark.experiment(number=8)
@pytest.mark.measured
def test_forged_identities_share_one_bucket(
    release: Release, image: str, watch: Watch, report: Report
) -> None:
    """All forged identities of a client share the bucket of its address; a valid token does not."""
    streams = [Stream("spoofed", "address", *ROUTES["spoofed"], 4, each) for each in HEADERS]
    streams.append(Stream("spoofed", "address", *ROUTES["spoofed"], 4, forge=FORGE))
    # On a kept cluster, the bucket of an earlier run is empty.
    good = {"Authorization": f"Bearer {token(secrets.token_hex(8))}"}
    streams.append(Stream("spoofed", "verified", *ROUTES["spoofed"], 4, good))
    with Load(release, image, "spoofed", streams, 8) as load:
        answers = load.answers()
    row = report.record("forged identities", answers, watch)
    assert set(answers.statuses) == {200, 429}
    burst = QUOTAS["spoofed"].burst
    row.expect(beyond_policy=0, audited=0, admitted=2 * burst)
    assert answers.of(caller="address").admitted == answers.of(caller="verified").admitted == burst

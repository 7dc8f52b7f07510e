"""Waits that the answers of services state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.outgoing.retry_fields import stated_wait_s

NOW = 1_893_456_000.0
"""2030-01-01T00:00:00Z."""


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"retry-after": "30"}, 30),
        ({"retry-after": "Tue, 01 Jan 2030 00:01:00 GMT"}, 60),
        ({"retry-after": "Mon, 31 Dec 2029 00:00:00 GMT"}, 0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "1e9"}, 0),
        ({"retry-after": "\u0663"}, 0),
        ({"retry-after": "9" * 2_000}, 0),
        ({"ratelimit": '"p";r=0;t=30'}, 30),
        ({"ratelimit": '"p";r=5;t=30'}, 0),
        ({"ratelimit": '"p";r=0'}, 0),
        ({"ratelimit": '"a,b;r=0;t=9";r=1;t=30, "c";r=0;t=7, d;r=0;t=8'}, 8),
        ({"ratelimit": '"p";a=0;w=12'}, 12),
        ({"ratelimit": "limit=100, remaining=0, reset=25"}, 25),
        ({"ratelimit": "limit=100, remaining=1, reset=25"}, 0),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "20"}, 20),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1893456040"}, 40),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1893456040500"}, 40.5),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": "5"}, 5),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "5"}, 0),
        ({"x-ratelimit-remaining": "0"}, 0),
        (
            {
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "1893459999",
                "x-ratelimit-reset-after": "2.5",
            },
            2.5,
        ),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "250ms"}, 0.25),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 3_723.5),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m later"}, 0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-requests": "6m0s"}, 0),
        (
            {
                "anthropic-ratelimit-input-tokens-remaining": "0",
                "anthropic-ratelimit-input-tokens-reset": "2030-01-01T00:00:07Z",
            },
            7,
        ),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "2030-01-01T00:00:07"}, 7),
    ],
)
def test_wait_is_read_from_the_fields_of_services(fields: dict[str, str], seconds: float) -> None:
    """Each form that is in use states its wait; another value states none."""
    assert stated_wait_s(429, fields, NOW) == pytest.approx(seconds)


def test_retry_after_of_a_redirect_is_left_to_the_client() -> None:
    """Retry-After of an answer below 400 does not delay other calls; a spent limit does."""
    assert stated_wait_s(301, {"retry-after": "30"}, NOW) == 0
    assert stated_wait_s(200, {"ratelimit": '"p";r=0;t=30'}, NOW) == 30


NAMES = (
    "retry-after",
    "retry-after-ms",
    "ratelimit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "x-ratelimit-remaining-a",
    "x-ratelimit-reset-a",
    "anthropic-ratelimit-a-remaining",
    "anthropic-ratelimit-a-reset",
)
VALUES = st.text(max_size=40) | st.sampled_from(["0", "00", "9" * 20, "inf", "nan", "1.5", "1h"])


@given(st.dictionaries(st.sampled_from(NAMES), VALUES), st.integers(100, 599))
def test_any_text_states_a_finite_wait(fields: dict[str, str], status: int) -> None:
    """No value of a field raises, or states a wait that is negative or infinite."""
    assert 0 <= stated_wait_s(status, fields, NOW) < 1e21

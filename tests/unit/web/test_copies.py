"""Values that an app receives can be copied, and sent to another process: in every build."""

import copy
import pickle
from collections.abc import Callable

import pytest

from fleetlimit.core.decision import BucketStatus, Decision, Outcome, PolicyResult, Source
from fleetlimit.core.policy import Mode
from fleetlimit.core.subject import Identity, Principal, Subject
from fleetlimit.limiter.events import CheckDecided, OvershootFound
from fleetlimit.web.exceptions import RateLimitExceeded
from fleetlimit.web.responses import RejectionCause, RejectionResponse
from support.telemetry import TEN_A_MINUTE

STATUS = BucketStatus(True, 9, 0, 6_000_000, 6_000_000)  # noqa: FBT003 - it allows the request
RESULT = PolicyResult("a", Mode.ENFORCE, Outcome.ALLOWED, (TEN_A_MINUTE,), (STATUS,))
DECISION = Decision(Outcome.ALLOWED, Source.STORE, (RESULT,), 0, spent=True)
ANN = Principal("ann", "pro", "jwt")
VALUES = [
    STATUS,
    RESULT,
    DECISION,
    ANN,
    Identity("10.0.0.1", ANN),
    CheckDecided(DECISION, "hash", False, "pro", "GET /", 0.25),  # noqa: FBT003 - with a principal
    OvershootFound("a", "10/minute", "caller", 3),
]


def _pickled(value: object) -> object:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - of this process


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, _pickled])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_copy_equals_the_value(value: object, again: Callable[[object], object]) -> None:
    """Each field has the same value."""
    assert again(value) == value


def test_copy_of_a_subject_equals_it() -> None:
    """A subject has a view of headers, which cannot be pickled."""
    subject = Subject("10.0.0.1", ANN, "GET /", {"x": "y"})
    assert copy.copy(subject) == copy.deepcopy(subject) == subject


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, _pickled])
def test_copy_of_a_rejection_equals_it(
    again: Callable[[RateLimitExceeded], RateLimitExceeded],
) -> None:
    """A worker may send the exception to another process."""
    response = RejectionResponse(
        429, [("Retry-After", "6")], b'{"detail": "spent"}', cause=RejectionCause.LIMIT
    )
    rejected = RateLimitExceeded(response, DECISION)
    copied = again(rejected)
    assert (copied.status_code, copied.retry_after, copied.detail) == (429, 6, "spent")
    assert copied.decision == DECISION
    assert copied.response.raw_headers == [(b"retry-after", b"6")]

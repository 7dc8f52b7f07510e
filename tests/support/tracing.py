"""Mark for tests that fail under a tracer such as coverage."""

import sys

import pytest

exact_cancellation = pytest.mark.skipif(
    sys.version_info < (3, 12) and sys.gettrace() is not None,
    reason="under a tracer CPython 3.11 loses the handlers of a cancelled await, timeouts included",
)

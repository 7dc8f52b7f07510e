"""What tests of the audit share."""

from collections.abc import AsyncIterator

import pytest

from support.audit import Town


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    """Return three replicas with one policy of 6 a minute."""
    found = Town()
    yield found
    await found.fleet.aclose()

"""What tests of the audit share."""

from collections.abc import AsyncIterator

import pytest

from support.audit import AuditBench


@pytest.fixture
async def bench() -> AsyncIterator[AuditBench]:
    """Return three replicas with one policy of 6 a minute."""
    found = AuditBench()
    yield found
    await found.fleet.aclose()

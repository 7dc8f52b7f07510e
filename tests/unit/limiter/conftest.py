"""Fixture of the audit's tests."""

from collections.abc import AsyncIterator

import pytest

from support.audit import AuditBench


@pytest.fixture
async def bench() -> AsyncIterator[AuditBench]:
    """Return three replicas with one policy of 6 requests per minute."""
    found = AuditBench()
    yield found
    await found.fleet.aclose()

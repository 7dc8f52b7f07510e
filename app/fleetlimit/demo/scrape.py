"""Scrape of a replica's decision counters from `/metrics` on its admin port."""

from collections.abc import Mapping

import httpx
from prometheus_client.parser import text_string_to_metric_families

from fleetlimit.core.decision import Outcome
from fleetlimit.demo.replicas import HOST
from fleetlimit.demo.scenario import POLICY
from fleetlimit.errors import FleetlimitError
from fleetlimit.telemetry import names

_SECONDS = 10


async def read_counters(ports: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return the numbers of allowed and of denied requests that each replica counted.

    Args:
        ports: Admin port of each replica, by name.

    Raises:
        FleetlimitError: A replica does not respond.
    """
    counters = {}
    async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
        for name, port in ports.items():
            try:
                response = await client.get(f"http://{HOST}:{port}/metrics")
                counters[name] = parse_counters(response.raise_for_status().text)
            except httpx.HTTPError as error:
                raise FleetlimitError(f"no metrics from {name}: {error}") from error
    return counters


def parse_counters(text: str) -> tuple[int, int]:
    """Return allowed and denied of the demonstration's policy from the text of the metrics."""
    counts = {
        sample.labels[names.OUTCOME]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == names.DECISIONS.name and sample.labels[names.POLICY] == POLICY
    }
    return counts[Outcome.ALLOWED], counts[Outcome.DENIED]

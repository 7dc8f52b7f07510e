"""Load generator: concurrent requests over a bounded number of connections to each replica."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping

import httpx

from fleetlimit.demo.replicas import HOST
from fleetlimit.demo.results import NO_RESPONSE, Result, Results
from fleetlimit.demo.scenario import PATH, Caller

CONNECTIONS = 16
"""Connections to each replica. With more, the single client process would be the bottleneck."""
_TIMEOUT = httpx.Timeout(10)


async def send_all(
    schedule: Iterator[tuple[int, Caller]], ports: Mapping[str, int], results: Results
) -> None:
    """Send every request of the schedule and count the responses.

    Args:
        schedule: Index of the replica and caller of each request.
        ports: Port of each replica, by name.
        results: Results to add to.
    """
    queues: list[list[tuple[int, Caller]]] = [[] for _ in ports]
    for number, (replica_index, caller) in enumerate(schedule):
        queues[replica_index].append((number, caller))
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        # Shared, because each transport would load the system's certificates again.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for (name, port), queue in zip(ports.items(), queues, strict=True):
            requests = iter(queue)
            for _ in range(min(CONNECTIONS, len(queue))):
                # One transport per connection: a pool searches all its connections per request.
                transport = httpx.AsyncHTTPTransport(verify=context)
                await stack.enter_async_context(transport)
                group.create_task(_send(requests, transport, name, port, results))


async def _send(
    requests: Iterator[tuple[int, Caller]],
    transport: httpx.AsyncBaseTransport,
    replica: str,
    port: int,
    results: Results,
) -> None:
    """Send the remaining requests of a replica one after the other over one connection."""
    url = httpx.URL(f"http://{HOST}:{port}{PATH}")
    for number, caller in requests:
        headers = caller.headers(number)
        request = httpx.Request(
            "POST", url, headers=headers, extensions={"timeout": _TIMEOUT.as_dict()}
        )
        started = time.perf_counter()
        try:
            response = await transport.handle_async_request(request)
            await response.aread()
            await response.aclose()
            status = response.status_code
        except httpx.HTTPError:
            status = NO_RESPONSE
        results.add(Result(replica, caller.name, status, time.perf_counter() - started))

"""Sends the requests: many at once, over a bounded number of connections to each replica."""

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
"""Connections to each replica. More would measure this process, which is one, and not the fleet."""
_TIMEOUT = httpx.Timeout(10)


async def send_all(
    schedule: Iterator[tuple[int, Caller]], ports: Mapping[str, int], results: Results
) -> None:
    """Send every request of the schedule and count the answers.

    Args:
        schedule: The place of a replica and the caller of each request.
        ports: The port of each replica, by name.
        results: Where to count.
    """
    queues: list[list[tuple[int, Caller]]] = [[] for _ in ports]
    for number, (replica_index, caller) in enumerate(schedule):
        queues[replica_index].append((number, caller))
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        # One for all: each transport would read the system's certificates for its own.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for (name, port), queue in zip(ports.items(), queues, strict=True):
            requests = iter(queue)
            for _ in range(min(CONNECTIONS, len(queue))):
                # A transport for each connection: a pool would search all of its connections for
                # each request.
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
    """Send requests one after the other until there are none."""
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

"""Load generator: sends requests at constant rates and prints all results as one JSON array.

It runs inside the cluster in the Fleetlimit image. The environment variable LOAD configures it:
`{"target": "host:port", "seconds": 10, "streams": [{"method", "path", "headers", "per_second",
"forge"}]}`. In the value of a header, `{random}` is replaced by a random text and `{address}` by a
random IPv6 address, new for each request. A stream with claims in `forge` sends a forged token with
each request. Each request uses a new connection.

A result is `[stream, sent_us, duration_us, status]`: the index of the stream, the wall-clock time
of sending in microseconds, the duration in microseconds, and the HTTP status, or `refused`,
`broken` or `timeout` for a failed connection. The file STOP ends the load early.
"""

import asyncio
import json
import os
import secrets
import time
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

STOP = Path("/tmp/stop")  # noqa: S108 - the pod's own volume
TIMEOUT = 10.0
CONNECT_DEADLINE = 60.0
CONNECT_TIMEOUT = 1.0
CONNECT_INTERVAL = 0.05
FORGER_KEY = ec.generate_private_key(ec.SECP256R1())


def forge_token(claims: dict[str, Any], kid: str) -> str:
    """Return a token for a random subject with the issuer's claims, signed by another key."""
    payload = {**claims, "sub": secrets.token_hex(8), "exp": int(time.time()) + 3600}
    return jwt.encode(payload, FORGER_KEY, "ES256", headers={"kid": kid})


async def send(host: str, port: int, stream: dict[str, Any]) -> int | str:
    """Send a request and return its HTTP status, `refused` or `broken`."""
    headers = {"Host": host, "Connection": "close", "Content-Length": "0"} | stream["headers"]
    if stream["forge"]:
        headers["Authorization"] = f"Bearer {forge_token(**stream['forge'])}"
    lines = "".join(
        f"{name}: {value}\r\n".replace("{random}", secrets.token_hex(8)).replace(
            "{address}", str(IPv6Address(secrets.randbits(128)))
        )
        for name, value in headers.items()
    )
    writer = None
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"{stream['method']} {stream['path']} HTTP/1.1\r\n{lines}\r\n".encode())
        response = await reader.read()
        return int(response.split(b" ", 2)[1])
    except ConnectionRefusedError:
        return "refused"
    except (OSError, IndexError, ValueError):
        return "broken"
    finally:
        if writer is not None:
            writer.close()


async def wait_for_target(host: str, port: int) -> None:
    """Wait until the target accepts connections: nodes route to ready pods with a delay.

    Raises:
        TimeoutError: The target did not accept a connection within CONNECT_DEADLINE.
    """
    async with asyncio.timeout(CONNECT_DEADLINE):
        while True:
            try:
                # Packets sent before the node routes to the Service are lost, including TCP
                # retransmissions of the same connection. Only a new connection helps.
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(CONNECT_INTERVAL)
            else:
                writer.close()
                return


async def record(number: int, config: dict[str, Any], requests: list[list[Any]]) -> None:
    """Send one request of a stream and append its result."""
    host, _, port = config["target"].partition(":")
    sent_us, start = time.time_ns() // 1000, time.perf_counter()
    try:
        status = await asyncio.wait_for(send(host, int(port), config["streams"][number]), TIMEOUT)
    except TimeoutError:
        status = "timeout"
    duration_us = round((time.perf_counter() - start) * 1e6)
    requests.append([number, sent_us, duration_us, status])


async def run_stream(
    number: int, config: dict[str, Any], requests: list[list[Any]], group: asyncio.TaskGroup
) -> None:
    """Send the requests of one stream at its rate, without waiting for earlier responses."""
    streams = config["streams"]
    interval = 1 / streams[number]["per_second"]
    # Streams start at different offsets, so that they do not send at the same moments.
    at = time.monotonic() + interval * number / len(streams)
    end = time.monotonic() + config["seconds"]
    while at < end and not STOP.exists():  # noqa: ASYNC240 - takes microseconds
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        group.create_task(record(number, config, requests))
        at += interval


async def main() -> None:
    """Run all streams and print the results."""
    config = json.loads(os.environ["LOAD"])
    host, _, port = config["target"].partition(":")
    await wait_for_target(host, int(port))
    requests: list[list[Any]] = []
    async with asyncio.TaskGroup() as group:
        for number in range(len(config["streams"])):
            group.create_task(run_stream(number, config, requests, group))
    print(json.dumps(requests))  # noqa: T201 - the report


if __name__ == "__main__":
    asyncio.run(main())

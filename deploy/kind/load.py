"""Send requests at steady rates, each on a connection of its own; print one JSON of all of them.

Runs inside the cluster on the image's own Python. The variable LOAD says what to send:
`{"target": "host:port", "seconds": 10, "streams": [{"method", "path", "headers", "per_second",
"forge"}]}`.
In a header's value `{random}` is a fresh text for each request, and `{address}` a fresh address.
A stream with claims in `forge` sends a token of its own making each time.
It ends early when the file STOP is there. A request is `[stream, sent_us, microseconds, status]`;
in place of a status `refused`, `broken` or `timeout` says what became of the connection.
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
REACHED_WITHIN = 60.0
ATTEMPT = 1.0
BETWEEN = 0.05
FORGER = ec.generate_private_key(ec.SECP256R1())


def forged(claims: dict[str, Any], kid: str) -> str:
    """Return a token for a fresh subject that claims to be the issuer's, signed by another key."""
    mine = {**claims, "sub": secrets.token_hex(8), "exp": int(time.time()) + 3600}
    return jwt.encode(mine, FORGER, "ES256", headers={"kid": kid})


async def ask(host: str, port: int, stream: dict[str, Any]) -> int | str:
    """Send a request and return its status, or what became of it."""
    headers = {"Host": host, "Connection": "close", "Content-Length": "0"} | stream["headers"]
    if stream["forge"]:
        headers["Authorization"] = f"Bearer {forged(**stream['forge'])}"
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
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1])
    except ConnectionRefusedError:
        return "refused"
    except (OSError, IndexError, ValueError):
        return "broken"
    finally:
        if writer is not None:
            writer.close()


async def reached(host: str, port: int) -> None:
    """Wait until somebody listens: a node knows a new Service's pods a moment after they are ready.

    Raises:
        TimeoutError: Nobody does.
    """
    async with asyncio.timeout(REACHED_WITHIN):
        while True:
            try:
                # What is sent before the node knows the Service gets lost, and so does all that is
                # sent again on the same connection.
                async with asyncio.timeout(ATTEMPT):
                    _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(BETWEEN)
            else:
                writer.close()
                return


async def send(number: int, config: dict[str, Any], requests: list[list[Any]]) -> None:
    """Send one request of a stream and note what became of it."""
    host, _, port = config["target"].partition(":")
    sent_us, start = time.time_ns() // 1000, time.perf_counter()
    try:
        status = await asyncio.wait_for(ask(host, int(port), config["streams"][number]), TIMEOUT)
    except TimeoutError:
        status = "timeout"
    taken_us = round((time.perf_counter() - start) * 1e6)
    requests.append([number, sent_us, taken_us, status])


async def flow(
    number: int, config: dict[str, Any], requests: list[list[Any]], group: asyncio.TaskGroup
) -> None:
    """Send the requests of one stream, whatever becomes of the ones before."""
    streams = config["streams"]
    between = 1 / streams[number]["per_second"]
    # The streams do not all send at the same moment.
    at = time.monotonic() + between * number / len(streams)
    end = time.monotonic() + config["seconds"]
    while at < end and not STOP.exists():  # noqa: ASYNC240 - it takes microseconds
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        group.create_task(send(number, config, requests))
        at += between


async def main() -> None:
    """Run all streams and print what became of their requests."""
    config = json.loads(os.environ["LOAD"])
    host, _, port = config["target"].partition(":")
    await reached(host, int(port))
    requests: list[list[Any]] = []
    async with asyncio.TaskGroup() as group:
        for number in range(len(config["streams"])):
            group.create_task(flow(number, config, requests, group))
    print(json.dumps(requests))  # noqa: T201 - its report


if __name__ == "__main__":
    asyncio.run(main())

"""Encoded HTTP requests and API keys of the load."""

import hashlib
import json
from collections.abc import Iterator
from itertools import count
from typing import Final

PRINCIPALS: Final = 1_000
"""Callers of most scenes."""


def api_key(number: int) -> str:
    """Return the API key of a caller."""
    return f"key-{number:07}"


def key_file(principals: int) -> str:
    """Return the text of a file of API keys."""
    keys = [
        {"sha256": hashlib.sha256(api_key(n).encode()).hexdigest(), "principal": f"caller-{n}"}
        for n in range(principals)
    ]
    return json.dumps({"keys": keys})


def request(caller: int, *, body_bytes: int = 0) -> bytes:
    """Return one request for an export.

    Args:
        caller: Number of the caller whose API key the request carries.
        body_bytes: Length of a text in the body.
    """
    body = json.dumps({"format": "csv", "rows": 100, "note": "x" * body_bytes}).encode()
    head = (
        "POST /exports HTTP/1.1",
        "Host: localhost",
        f"X-API-Key: {api_key(caller)}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def spread(principals: int, *, body_bytes: int = 0) -> Iterator[bytes]:
    """Yield one request of each caller in turn, endlessly."""
    if principals > PRINCIPALS:
        # Too many to keep in memory: encode each when it is sent.
        for number in count():
            yield request(number % principals, body_bytes=body_bytes)
    encoded = [request(number, body_bytes=body_bytes) for number in range(principals)]
    while True:
        yield from encoded

"""Requests and API keys of the load."""

import hashlib
import json
from itertools import islice

from harness.requests import api_key, key_file, request, spread


def test_request_has_its_callers_key_and_the_bodys_length() -> None:
    """Head and body fit together for every body size."""
    for size in (0, 1_000):
        head, _, body = request(7, body_bytes=size).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "POST /exports HTTP/1.1"
        assert f"X-API-Key: {api_key(7)}" in lines
        assert f"Content-Length: {len(body)}" in lines
        assert len(json.loads(body)["note"]) == size


def test_spread_yields_each_caller_in_turn() -> None:
    """The first caller follows the last, for prepared requests and for requests encoded later."""
    for principals in (3, 1_001):
        found = list(islice(spread(principals), principals + 1))
        assert len(set(found)) == principals
        assert found[-1] == found[0] == request(0)


def test_key_file_has_the_hash_of_every_key() -> None:
    """Every caller of the load is a principal."""
    keys = json.loads(key_file(2))["keys"]
    assert [each["principal"] for each in keys] == ["caller-0", "caller-1"]
    assert keys[1]["sha256"] == hashlib.sha256(api_key(1).encode()).hexdigest()

# ruff: noqa: INP001 - the text of a pod's command, no package
"""Spend all that the policies leave this pod, and one request more: just that one is refused."""

import json
import os
import sys
import time
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlencode

TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
MOST_REQUESTS = 500
PATIENCE_SECONDS = 30.0


def connected(server: str) -> HTTPConnection:
    """Return a connection. A node may learn the way to pods after they are ready."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        connection = HTTPConnection(server, timeout=10)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() >= deadline:
                sys.exit(f"{server} refuses connections: kubectl get endpointslices")
            time.sleep(0.5)
        else:
            return connection


def ask(server: str, method: str, target: str) -> tuple[HTTPResponse, bytes]:
    """Send a request on a connection of its own, so that it can meet any replica."""
    connection = connected(server)
    try:
        connection.request(method, target)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def standing(method: str, path: str) -> tuple[int, float]:
    """Return how many requests are left to this pod, and the seconds until it has one."""
    query = urlencode({"method": method, "path": path, "address": os.environ["POD_IP"]})
    answer, body = ask(os.environ["ADMIN"], "GET", f"/explain?{query}")
    told: dict[str, Any] = json.loads(body)
    left, wait = [], 0.0
    for policy in told["policies"]:
        if policy["standing"] is None:
            sys.exit(f"the store is away: {policy['store_error']}")
        if policy["mode"] != "enforce" or policy["enforce_percent"] < 100:  # noqa: PLR2004 - percent
            continue
        for limit, figures in zip(policy["limits"], policy["standing"][0]["limits"], strict=True):
            if "concurrency" not in limit:
                left.append(figures["remaining"] // limit["cost"])
                wait = max(wait, figures["retry_after_seconds"])
    if not left or min(left) >= MOST_REQUESTS:
        sys.exit(
            f"no policy with a limit below {MOST_REQUESTS} requests holds {method} {path} "
            f"({answer.status}): choose others with test.method and test.path"
        )
    return min(left), wait


def main() -> None:
    """Run the test; exit with 1 and the reason when it fails."""
    method, path = os.environ["METHOD"], os.environ["TARGET"]
    left, wait = standing(method, path)
    while not left:
        time.sleep(wait + 0.1)
        left, wait = standing(method, path)
    answers = [ask(os.environ["API"], method, path)[0] for _ in range(left + 1)]
    statuses = [answer.status for answer in answers]
    refused = [answer for answer in answers if answer.status == TOO_MANY_REQUESTS]
    if len(refused) != 1 or max(statuses) >= SERVER_ERROR:
        sys.exit(
            f"{left + 1} requests {method} {path}, of which one should be refused: {statuses}. "
            "A limit that fills while they are sent cannot be tested: see test.path"
        )
    wait_told = refused[0].getheader("Retry-After")
    if wait_told is None:
        sys.exit("the refusal has no Retry-After")
    print(f"{method} {path}: {left} requests let in, 1 refused until {wait_told} s later")  # noqa: T201 - its report


main()

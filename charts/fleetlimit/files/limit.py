# ruff: noqa: INP001 - the text of a pod's command, not a package
"""Test of a release: spend all remaining units of this pod and send one more request.

Exactly that last request must be rejected, whichever replicas the requests reach.
"""

import json
import os
import sys
import time
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlencode

TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500
MAX_REQUESTS = 500
CONNECT_SECONDS = 30.0


def connect(server: str) -> HTTPConnection:
    """Return a connection, retried while kube-proxy does not route to the ready pods yet."""
    deadline = time.monotonic() + CONNECT_SECONDS
    while True:
        connection = HTTPConnection(server, timeout=10)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() >= deadline:
                sys.exit(f"{server} refuses connections: see kubectl get endpointslices")
            time.sleep(0.5)
        else:
            return connection


def send(server: str, method: str, target: str) -> tuple[HTTPResponse, bytes]:
    """Send a request on a new connection, so that it can reach any replica."""
    connection = connect(server)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def remaining_requests(method: str, path: str) -> tuple[int, float]:
    """Return how many requests of this pod the limits still admit, and the seconds until one."""
    query = urlencode({"method": method, "path": path, "address": os.environ["POD_IP"]})
    response, body = send(os.environ["ADMIN"], "GET", f"/explain?{query}")
    explanation: dict[str, Any] = json.loads(body)
    left, wait = [], 0.0
    for policy in explanation["policies"]:
        if policy["status"] is None:
            sys.exit(f"the store is unavailable: {policy['store_error']}")
        if policy["mode"] != "enforce" or policy["enforce_percent"] < 100:  # noqa: PLR2004 - percent
            continue
        for limit, figures in zip(policy["limits"], policy["status"][0]["limits"], strict=True):
            if "concurrency" not in limit:
                left.append(figures["remaining"] // limit["cost"])
                wait = max(wait, figures["retry_after_seconds"])
    if not left or min(left) >= MAX_REQUESTS:
        sys.exit(
            f"no policy with a limit below {MAX_REQUESTS} requests applies to {method} {path} "
            f"(status {response.status} of /explain): set another test.method or test.path"
        )
    return min(left), wait


def main() -> None:
    """Run the test. Exit with status 1 and the reason if it fails."""
    method, path = os.environ["METHOD"], os.environ["TARGET"]
    left, wait = remaining_requests(method, path)
    while not left:
        time.sleep(wait + 0.1)
        left, wait = remaining_requests(method, path)
    responses = [send(os.environ["API"], method, path)[0] for _ in range(left + 1)]
    statuses = [response.status for response in responses]
    rejected = [response for response in responses if response.status == TOO_MANY_REQUESTS]
    if len(rejected) != 1 or max(statuses) >= SERVER_ERROR:
        sys.exit(
            f"{left + 1} requests {method} {path} had the statuses {statuses}, instead of one 429. "
            "A limit that refills during the test cannot be tested: set test.path to another route"
        )
    retry_after = rejected[0].getheader("Retry-After")
    if retry_after is None:
        sys.exit("the response 429 has no header Retry-After")
    # The output is the report of `helm test`.
    print(f"{method} {path}: {left} requests admitted, 1 rejected for {retry_after} s")  # noqa: T201


main()

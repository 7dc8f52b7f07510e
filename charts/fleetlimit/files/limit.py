# ruff: noqa: INP001 - the text of a pod's command, not a package
"""Test of a release: spend all remaining units of this pod and send one more request.

Exactly that last request must be rejected, whichever replicas the requests reach. The remaining
units are those of the response headers; the admin port is asked only why a test failed.
"""

import json
import os
import re
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse

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
        except OSError as error:
            if time.monotonic() >= deadline:
                sys.exit(
                    f"{server} cannot be reached ({error}): see kubectl get "
                    "endpointslices,networkpolicies"
                )
            time.sleep(0.5)
        else:
            return connection


def send(server: str, method: str, target: str) -> HTTPResponse:
    """Send a request on a new connection, so that it can reach any replica."""
    connection = connect(server)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def send_admitted(server: str, method: str, target: str) -> HTTPResponse:
    """Send a request, and repeat it after each rejection until it is admitted."""
    while (response := send(server, method, target)).status == TOO_MANY_REQUESTS:
        time.sleep(float(response.getheader("Retry-After") or 1))
    return response


def remaining_units(response: HTTPResponse) -> dict[str, int]:
    """Return the remaining units of each limit that the response states."""
    listed = re.findall(r'("[^"]*");r=(\d+)', response.getheader("RateLimit") or "")
    if not listed and (single := response.getheader("X-RateLimit-Remaining")):
        listed = [("", single)]
    return {name: int(units) for name, units in listed}


def remaining_requests(before: HTTPResponse, after: HTTPResponse) -> int | None:
    """Return how many requests fit after the second of two; None if no limit counts them.

    The cost of a request is the difference between the remaining units of both responses.
    """
    first, second = remaining_units(before), remaining_units(after)
    costs = {name: first[name] - second.get(name, first[name]) for name in first}
    left = [second[name] // cost for name, cost in costs.items() if cost > 0]
    return min(left, default=None)


def store_failure(admin: str) -> str:
    """Return why the store of a replica is unavailable, as the end of a message; else nothing."""
    connection = HTTPConnection(admin, timeout=5)
    try:
        connection.request("GET", "/readyz")
        store = json.load(connection.getresponse())["store"]
        failures = ", ".join(store.get("failures", ()))
    except (OSError, HTTPException, ValueError, KeyError):
        return ""  # such as a NetworkPolicy that keeps this pod out
    finally:
        connection.close()
    return f". The store is {store['status']} ({failures}): see docs/runbook.md" if failures else ""


def main() -> None:
    """Run the test. Exit with status 1 and the reason if it fails."""
    api, admin = os.environ["API"], os.environ["ADMIN"]
    method, path = os.environ["METHOD"], os.environ["TARGET"]
    responses = [send_admitted(api, method, path), send(api, method, path)]
    if responses[1].status != TOO_MANY_REQUESTS:
        left = remaining_requests(*responses)
        if left is None or left >= MAX_REQUESTS:
            sys.exit(
                f"no policy with a limit below {MAX_REQUESTS} requests counts {method} {path} "
                f"(status {responses[1].status}, RateLimit {responses[1].getheader('RateLimit')}): "
                "set another test.method or test.path; FLEETLIMIT_HEADERS must not be none, and "
                f"the store must be available{store_failure(admin)}"
            )
        responses += [send(api, method, path) for _ in range(left + 1)]
    statuses = [response.status for response in responses]
    rejected = [response for response in responses if response.status == TOO_MANY_REQUESTS]
    if len(rejected) != 1 or max(statuses) >= SERVER_ERROR:
        sys.exit(
            f"{len(statuses)} requests {method} {path} had the statuses {statuses}, instead of one "
            "429. A limit that refills during the test cannot be tested: set test.path to another "
            "route. If the store is unavailable, the pods do not share their limits"
            f"{store_failure(admin)}"
        )
    retry_after = rejected[0].getheader("Retry-After")
    if retry_after is None:
        sys.exit("the response 429 has no header Retry-After")
    # The output is the report of `helm test`.
    admitted = len(responses) - 1
    print(f"{method} {path}: {admitted} requests admitted, 1 rejected for {retry_after} s")  # noqa: T201


main()

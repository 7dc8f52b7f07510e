"""Program that checks a running demonstration, and exits with 0 if the limit holds and is shown.

Its argument is the Unix time before the demonstration started. The ports are those that
`deploy/kind/demo.sh` and `deploy/compose.yaml` have in common.
"""

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus
from typing import Any

API = "http://127.0.0.1:8000"
PROMETHEUS = "http://127.0.0.1:9090"
JAEGER = "http://127.0.0.1:16686"
DEADLINE = 300.0
REPLICAS = 3
RATE, BURST = 1, 20
"""Limit of `exports` in `deploy/compose/policies/policies.yaml`, in requests per second."""


def respond(url: str, **options: Any) -> tuple[int, bytes]:
    """Send a request and return the status and the body of the response, also of a rejection."""
    request = urllib.request.Request(url, **options)  # noqa: S310 - the URLs above
    try:
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def data(url: str) -> Any:
    """Return the field `data` of a response in JSON.

    Raises:
        ValueError: The response is an error, such as that of a server that is starting.
    """
    status, body = respond(url)
    if status != HTTPStatus.OK:
        raise ValueError(f"{url}: {status}")
    return json.loads(body)["data"]


def value(query: str) -> float:
    """Return the value of a PromQL query; 0 for an empty result."""
    url = f"{PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    result = data(url)["result"]
    return float(result[0]["value"][1]) if result else 0


def exports(outcome: str) -> float:
    """Return the requests with this outcome since the replicas started."""
    return value(f'sum(fleetlimit_decisions_total{{policy="exports",outcome="{outcome}"}})')


def permitted(started: float) -> float:
    """Return the upper bound of the requests that the limit permits until now."""
    return BURST + RATE * (time.time() - started)


def missing(started: float) -> list[str]:
    """Return the parts that the demonstration does not show yet."""
    try:
        status, _ = respond(f"{API}/exports", method="POST", headers={"X-API-Key": "greedy"})
        seen = {
            "429 for the greedy principal": status == HTTPStatus.TOO_MANY_REQUESTS,
            "all replicas": value("count(fleetlimit_build_info)") == REPLICAS,
            "admitted requests": exports("allowed") > 0,
            "the audit": value("sum(fleetlimit_audit_admitted_units_total)") > 0,
            # Fewer requests could not show an overshoot.
            "more requests than permitted": exports("allowed") + exports("denied")
            > 2 * permitted(started),
            "traces": "fleetlimit" in (data(f"{JAEGER}/api/services") or ()),
        }
    except (OSError, ValueError) as error:
        return [str(error)]
    return [name for name, shown in seen.items() if not shown]


def main(started: float) -> None:
    """Wait until the demonstration shows all parts, and check that the limit holds."""
    deadline = time.monotonic() + DEADLINE
    while lacking := missing(started):
        assert time.monotonic() < deadline, f"the demonstration does not show {lacking}"
        time.sleep(1)
    admitted, denied = exports("allowed"), exports("denied")
    assert admitted <= permitted(started), (admitted, permitted(started))
    assert value("max(fleetlimit_audit_overshoot)") == 0
    print(f"the limit holds: {admitted:.0f} requests admitted, {denied:.0f} denied")  # noqa: T201 - the report


if __name__ == "__main__":
    main(float(sys.argv[1]))

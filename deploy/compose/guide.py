"""Guide of the demonstration: prints what starts, and then the addresses to open.

A service that does not respond within DEADLINE is printed with the command for its log. The proxy
starts last. A name that does not resolve then is a service that was left out.

The guide runs until it is stopped, because `docker compose up` is attached to the guide alone, and
ends with the containers that it is attached to.
"""

import signal
import socket
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http import HTTPStatus

DEADLINE = 120.0
"""Seconds until the addresses are printed, whatever responds."""
INTERVAL = 0.5
"""Seconds between two attempts."""
TIMEOUT = 2.0
"""Seconds until an attempt fails."""

# Service, its address in compose's network, and the lines to print when it responds.
SERVICES = (
    (
        "proxy",
        "http://proxy/whoami",
        """\
API: the responses to the greedy principal, 429 for most
  curl -i -X POST -H 'X-API-Key: greedy' http://localhost:8000/exports""",
    ),
    (
        "grafana",
        "http://grafana:3000/api/health",
        """\
Grafana
  Does the limit hold?      http://localhost:3000/d/fleetlimit-holds
  Who is throttled?         http://localhost:3000/d/fleetlimit-throttled
  Is the limiter healthy?   http://localhost:3000/d/fleetlimit-healthy""",
    ),
    (
        "prometheus",
        "http://prometheus:9090/-/ready",
        """\
Prometheus
  Alerts                    http://localhost:9090/alerts""",
    ),
    (
        "jaeger",
        "http://jaeger:16686/",
        """\
Jaeger
  Traces with the store     http://localhost:16686/search?service=fleetlimit""",
    ),
)


def responds(url: str) -> bool:
    """Return whether a service responds. A rejection is a response, an error of a proxy is not."""
    try:
        urllib.request.urlopen(url, timeout=TIMEOUT).close()  # noqa: S310 - the URLs above
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < HTTPStatus.INTERNAL_SERVER_ERROR
    except OSError:
        return False
    return True


def left_out(url: str) -> bool:
    """Return whether no container has the name in a URL."""
    try:
        socket.gethostbyname(urllib.parse.urlsplit(url).hostname or "")
    except OSError:
        return True
    return False


def main() -> None:
    """Wait for the services and print their addresses."""
    # Without a handler, the first process of a container ignores the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    write = sys.stdout.write
    write("Starts three replicas that share one limit, their observability, and a load.\n")
    write(f"The addresses to open follow within {DEADLINE:.0f} s.\n")
    sys.stdout.flush()
    started = time.monotonic()
    missing = {name: url for name, url, _ in SERVICES}
    while missing and time.monotonic() < started + DEADLINE:
        if "proxy" not in missing and all(map(left_out, missing.values())):
            break
        missing = {name: url for name, url in missing.items() if not responds(url)}
        time.sleep(INTERVAL)
    write(f"\nRuns after {time.monotonic() - started:.0f} s.")
    write(" Prometheus has the first figures after half a minute.\n\n")
    for name, url, lines in SERVICES:
        if name not in missing:
            write(f"{lines}\n")
        elif left_out(url):
            write(f"No {name}: it was not started\n")
        else:
            write(f"No response of {name}: docker compose -f deploy/compose.yaml logs {name}\n")
    write("\nTo stop: Ctrl+C, then docker compose -f deploy/compose.yaml down\n")
    sys.stdout.flush()
    signal.pause()


if __name__ == "__main__":
    main()

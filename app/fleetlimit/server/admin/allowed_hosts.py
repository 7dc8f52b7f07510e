"""Check of the Host header of the admin port, against DNS rebinding.

A web page whose own name resolves to the address of the admin port is of the same origin as the
port, so that a browser inside the cluster would give it the metrics, policies and callers. Such a
request has the name of the page in its Host header.
"""

import ipaddress
import re
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from fleetlimit.bootstrap.build import build_logger
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.log_sampler import LogSampler
from fleetlimit.limiter.ports import Clock
from fleetlimit.server.admin.problem import problem_response
from fleetlimit.telemetry import names

_ANY: Final = "*"
_MAX_SHOWN_CHARS: Final = 255
_LOCAL_SUFFIXES: Final = (".localhost", ".svc", ".cluster.local", ".internal")
"""Suffixes that cannot be registered in the public DNS: `localhost` (RFC 6761), those of a
cluster, and `internal` (ICANN's resolution 2024.07.29.06)."""
_HOST: Final = re.compile(r"(?P<host>\[[^\[\]]+\]|[a-z0-9_.-]+)(:\d*)?", re.IGNORECASE)
_ENTRY: Final = re.compile(r"\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def parse_hosts(text: str) -> tuple[str, ...]:
    """Return the host names of a list, in lower case.

    Args:
        text: Names with commas between them; `*.example.com` is any name below `example.com`, and
            `*` is any name.

    Raises:
        ValueError: An entry is not a host name.
    """
    entries = tuple(each.strip().lower() for each in text.split(",") if each.strip())
    for entry in entries:
        if not _ENTRY.fullmatch(entry):
            raise ValueError(
                f"{entry!r} is not a host name: write names without a scheme and a port, such as "
                "metrics.example.com,*.corp.example"
            )
    return entries


class AllowedHosts:
    """ASGI middleware that answers requests for other hosts with 421.

    IP addresses, names without a dot, and names that do not exist in the public DNS are always
    allowed. So is a request without a Host header, because browsers send one.

    Args:
        app: The app behind the middleware.
        hosts: Further host names, as `parse_hosts` returns them.
        clock: Clock of this process.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = (), clock: Clock | None = None
    ) -> None:
        self._app = app
        self._names = frozenset(hosts)
        self._suffixes = (
            *_LOCAL_SUFFIXES,
            *(each.removeprefix(_ANY) for each in hosts if each.startswith("*.")),
        )
        self._log: Any = build_logger("fleetlimit")
        self._sampler: LogSampler[str] = LogSampler(
            clock or MonotonicClock(), self._write_summary, overflow=""
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if its host is allowed."""
        hosts = [] if scope["type"] == "lifespan" else Headers(scope=scope).getlist("host")
        if all(map(self._is_allowed, hosts)):
            await self._app(scope, receive, send)
            return
        given = ", ".join(hosts)[:_MAX_SHOWN_CHARS]
        if self._sampler.should_log(""):
            client = (scope.get("client") or [""])[0]
            self._log.warning(names.LOG_ADMIN_HOST_REJECTED, host=given, client=client)
        response = problem_response(
            HTTPStatus.MISDIRECTED_REQUEST,
            f"the Host header {given!r} is not allowed on the admin port: add the host name "
            "to FLEETLIMIT_ADMIN_ALLOWED_HOSTS, or request an IP address, localhost or a name "
            "that ends with .svc",
        )
        await response(scope, receive, send)

    def _is_allowed(self, given: str) -> bool:
        if _ANY in self._names:
            return True
        found = _HOST.fullmatch(given)
        if found is None:
            return False
        host = found["host"].lower().removesuffix(".")
        return (
            # An IPv6 address in brackets, or a name that only a local resolver completes.
            host.startswith("[")
            or "." not in host
            or host in self._names
            or host.endswith(self._suffixes)
            or _is_ip_address(host)
        )

    def _write_summary(self, _key: str, count: int) -> None:
        self._log.warning(names.LOG_ADMIN_HOST_REJECTED + names.SUPPRESSED, suppressed=count)


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

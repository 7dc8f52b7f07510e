"""Program that limits an app with the base dependencies alone, and exits with 0 if that works.

Its arguments are modules to treat as not installed. It uses no test client, which is not in the
base dependencies.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

for name in sys.argv[1:]:
    sys.modules[name] = None  # type: ignore[assignment]  # makes the import fail

from fastapi import Depends, FastAPI  # noqa: E402 - after the modules are blocked

from fleetlimit import (  # noqa: E402 - as above
    ConfigError,
    Fleetlimit,
    RateLimit,
    RateLimitMiddleware,
)

POLICIES = "version: 1\npolicies: [{name: default, limits: [{rate: 3/day}]}]\n"
JWT = "identity: {jwt: {issuer: me, audience: api, jwks: https://issuer.example/jwks.json}}\n"


async def get(app: FastAPI, path: str) -> int:
    """Send a GET request, and return the status of the response."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 1),
        "server": ("test", 80),
    }
    await app(scope, receive, send)
    status: int = sent[0]["status"]
    return status


async def limited(file: Path) -> list[list[int]]:
    """Return the statuses of an app with the dependency, and of one with the middleware."""
    depending = FastAPI(lifespan=Fleetlimit("memory://"))
    depending.add_api_route("/", lambda: None, dependencies=[Depends(RateLimit("2/day"))])
    behind = FastAPI(lifespan=Fleetlimit("memory://", file))
    behind.add_middleware(RateLimitMiddleware)
    statuses = []
    for app in (depending, behind):
        async with app.router.lifespan_context(app):
            statuses.append([await get(app, "/") for _ in range(4)])
    return statuses


def main() -> None:
    """Check the statuses, and the error of a policy file whose extra is not installed."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "policies.yaml"
        file.write_text(POLICIES)
        statuses = asyncio.run(limited(file))
        assert statuses == [[200, 200, 429, 429], [404, 404, 404, 429]], statuses
        file.write_text(POLICIES + JWT)
        message = "none"
        try:
            Fleetlimit("memory://", file)
        except ConfigError as error:
            message = str(error)
        assert "pip install 'fleetlimit[jwt]'" in message, message


if __name__ == "__main__":
    main()

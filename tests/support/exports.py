"""An app with limited routes, and the number of requests that it admits."""

from fastapi import Depends, FastAPI
from starlette.testclient import TestClient

from fleetlimit.web.route_policies import RateLimitDependency
from support.web import LimiterBench


def limited_app(bench: LimiterBench, *limits: RateLimitDependency) -> TestClient:
    app = bench.install(FastAPI())

    @app.post("/exports", dependencies=[Depends(limit) for limit in limits])
    async def create_export() -> None: ...

    @app.get("/imports", dependencies=[Depends(limit) for limit in limits])
    async def list_imports() -> None: ...

    return TestClient(app)


def count_allowed(client: TestClient, headers: dict[str, str] | None = None) -> int:
    """Return the number of requests that are admitted until one is rejected."""
    for admitted in range(100):
        response = client.post("/exports", headers=headers)
        if response.status_code != 200:
            assert response.status_code == 429
            return admitted
    raise AssertionError("no request is rejected")

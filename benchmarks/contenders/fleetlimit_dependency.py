"""Fleetlimit as a dependency of the route, with metrics and JSON log lines for denials."""

from fastapi import Depends, FastAPI

from contenders.export import LIMIT, Export, Queued, queue
from fleetlimit import Fleetlimit, RateLimit
from fleetlimit.telemetry import configure_logging

configure_logging(json=True)
app = FastAPI(lifespan=Fleetlimit())


@app.post("/exports", dependencies=[Depends(RateLimit(f"{LIMIT}/minute"))])
async def create_export(export: Export) -> Queued:
    """Queue an export."""
    return queue(export)

"""The app: `uvicorn --factory shop.main:app_of_environment --workers 4`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from fleetlimit import Fleetlimit, RateLimitMiddleware, usage_router
from shop import errors
from shop.accounts import Accounts
from shop.database import Database
from shop.routers import orders, streams

POLICIES = Path(__file__).parents[1] / "policies.yaml"


def create_app(
    database: Path, secret: str, make_fleetlimit: Callable[..., Fleetlimit] = Fleetlimit
) -> FastAPI:
    """Create the app.

    Args:
        database: File of the users.
        secret: Secret that signs the tokens.
        make_fleetlimit: Creates the limiter; a test passes its fixture.
    """
    accounts = Accounts(Database(database), secret)
    options: dict[str, Any] = {
        "policies": POLICIES,
        "resolver": accounts.principal,
        "limits": accounts.limits,
        "on_rejected": errors.on_rejected,
    }
    app = FastAPI(title="Shop", lifespan=make_fleetlimit(**options))
    app.state.accounts = accounts
    app.add_middleware(RateLimitMiddleware)
    errors.install(app)
    app.include_router(orders.router)
    app.include_router(streams.router)
    app.include_router(usage_router(prefix="/v1"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def app_of_environment() -> FastAPI:
    """Create the app from the variables SHOP_DATABASE and SHOP_SECRET."""
    return create_app(Path(os.environ.get("SHOP_DATABASE", "shop.db")), os.environ["SHOP_SECRET"])

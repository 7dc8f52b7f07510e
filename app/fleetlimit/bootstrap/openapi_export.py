"""OpenAPI schema with the limits of an app that is not started, for an export."""

from starlette.applications import Starlette

from fleetlimit.bootstrap.app_middlewares import has_middleware
from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.web.app_limiter import find_own_limiter


def document_limits(app: Starlette) -> None:
    """State the limits in the OpenAPI schema of an app that has not been started.

    A start does the same. Before it, call this once all routes and middlewares have been added, and
    then `app.openapi()`. The policies are those of the `Fleetlimit` that is found in the app's
    lifespan, or else of the one that the environment describes.

    A lifespan that makes its `Fleetlimit` only when it runs cannot be searched: the policies are
    then those of the environment.

    Args:
        app: A FastAPI app, whose mounted apps are documented as well.

    Raises:
        ConfigError: A setting or the policy file is wrong.
    """
    found = find_own_limiter(app)
    fleetlimit = found if isinstance(found, Fleetlimit) else Fleetlimit()
    fleetlimit.document(app, match_policies=has_middleware(app))

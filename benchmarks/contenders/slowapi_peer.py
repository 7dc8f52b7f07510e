"""SlowAPI: a decorator of the route, with a synchronous client."""

from fastapi import FastAPI, Request
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded

from contenders.depending import Check
from contenders.export import HEADER, LIMIT, STORE, Export, Queued, queue

limiter = Limiter(key_func=lambda request: request.headers[HEADER], storage_uri=STORE)
app = FastAPI()
app.state.limiter = limiter
app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)


@app.post("/exports")
@limiter.limit(f"{LIMIT}/minute")  # type: ignore[untyped-decorator]  # no types
async def create_export(request: Request, export: Export) -> Queued:  # noqa: ARG001 - slowapi requires it
    """Queue an export."""
    return queue(export)


async def open_check() -> Check:
    """Return the check of its decorator: a synchronous strategy of `limits`."""
    from limits import parse  # noqa: PLC0415 - the app does not need it

    item = parse(f"{LIMIT}/minute")

    async def check(caller: str) -> bool:
        return bool(limiter.limiter.hit(item, caller))

    return check

"""Endpoint that explains which policies apply to one request, and how much of them is left."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fleetlimit.bootstrap.explain import DEFAULT_ADDRESS, explain, parse_request
from fleetlimit.errors import ConfigError
from fleetlimit.server.admin.token import token_required


class _Body(BaseModel):
    """Body of `POST /explain`; `parse_request` documents the fields."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
    path: str
    method: str = "GET"
    headers: Annotated[list[str], Field(max_length=100)] = []
    client_address: str = DEFAULT_ADDRESS
    principal: str | None = None
    tier: str = ""


@token_required
async def explain_request(request: Request, body: Any) -> Response:
    """Explain a request without spending anything.

    The body is `{"method": "GET", "path": "/items/1", "headers": ["X-API-Key: abc"],
    "client_address": "192.0.2.1"}`. With `{"principal": "alice", "tier": "pro"}` the explanation
    is for that caller, whatever the headers identify.
    """
    admin = request.app.state.admin
    try:
        given = _Body.model_validate(body)
    except ValidationError as error:
        # Messages contain no value: a header may be a credential.
        found = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, found["loc"])) or "the body"
        raise ConfigError(
            f"{field}: {found['msg']}; write {', '.join(_Body.model_fields)}, such as "
            '{"method": "GET", "path": "/items/1", "headers": ["X-API-Key: abc"]}'
        ) from None
    explained = parse_request(
        given.method,
        given.path,
        headers=given.headers,
        client_address=given.client_address,
        principal=given.principal,
        tier=given.tier,
    )
    explanation = await explain(admin.fleetlimit.http_limiter, admin.wrapped.match_route, explained)
    return JSONResponse(explanation)

"""Error response of the admin port."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

_METHOD_NOT_ALLOWED = 405


def problem_response(
    status: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an `application/problem+json` response (RFC 9457).

    Args:
        status: HTTP status.
        detail: What is wrong, and what to write instead.
        headers: Further headers.
    """
    return JSONResponse(
        {"type": "about:blank", "status": status, "detail": detail},
        status,
        headers,
        media_type="application/problem+json",
    )


async def http_exception(request: Request, error: Exception) -> Response:
    """Return the response for an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for this class
    detail = f"there is no {request.url.path}"
    if error.status_code == _METHOD_NOT_ALLOWED:
        allowed = (error.headers or {})["Allow"]
        body = " with a JSON body and the admin token" if "POST" in allowed else ""
        detail = f"{request.url.path} does not accept {request.method}: send {allowed}{body}"
    return problem_response(error.status_code, detail, error.headers)

"""Error response of the admin port."""

from starlette.responses import JSONResponse, Response


def problem_response(status: int, detail: str) -> Response:
    """Return an `application/problem+json` response (RFC 9457).

    Args:
        status: HTTP status.
        detail: What is wrong, and what to write instead.
    """
    return JSONResponse(
        {"type": "about:blank", "status": status, "detail": detail},
        status,
        media_type="application/problem+json",
    )

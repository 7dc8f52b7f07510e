"""Format of the shop's errors, for rejections of the limiter and all others."""

from fastapi import FastAPI, HTTPException, Request
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

from fleetlimit import Decision, ProblemResponse


def error_response(
    status: int, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return an error in the shop's format."""
    content = {"error": {"status": status, "message": message}}
    return JSONResponse(content, status_code=status, headers=headers)


def on_rejected(
    connection: HTTPConnection, decision: Decision | None, response: ProblemResponse
) -> Response:
    """Return a rejection of the limiter in the shop's format; its headers are added."""
    path = connection.url.path
    limits = ", ".join(decision.denied_by) if decision is not None else response.cause
    return error_response(response.status_code, f"{path} is limited by: {limits}")


def install(app: FastAPI) -> None:
    """Answer every `HTTPException` in the shop's format."""

    @app.exception_handler(HTTPException)
    async def handle(_: Request, error: HTTPException) -> JSONResponse:
        return error_response(error.status_code, str(error.detail), dict(error.headers or {}))

"""Lower bound of a rejection: a middleware that sends every request the same ready response."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contenders.bare import app

# What Fleetlimit sends to the caller of the scene `deny`.
_BODY = (
    b'{"type": "https://iana.org/assignments/http-problem-types#quota-exceeded", "title": '
    b'"Request cannot be satisfied as assigned quota has been exceeded", "detail": '
    b'"The quota of exports is spent; try again in 6 s.", "status": 429, "violated-policies": '
    b'["exports"]}'
)
_HEADERS = [
    (b"content-type", b"application/problem+json"),
    (b"content-length", str(len(_BODY)).encode()),
    (b"cache-control", b"no-store"),
    (b"access-control-expose-headers", b"RateLimit, RateLimit-Policy, Retry-After"),
    (b"ratelimit-policy", b'"exports";q=10;w=60'),
    (b"ratelimit", b'"exports";r=0;t=6'),
    (b"retry-after", b"6"),
]
_MESSAGES: tuple[Message, Message] = (
    {"type": "http.response.start", "status": 429, "headers": _HEADERS},
    {"type": "http.response.body", "body": _BODY},
)


class Refusing:
    """Middleware that rejects every HTTP request, without a limiter."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the rejection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        for message in _MESSAGES:
            await send(message)


app.add_middleware(Refusing)

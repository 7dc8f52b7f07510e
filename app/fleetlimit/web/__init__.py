"""HTTP side of a limiter: FastAPI dependencies and an ASGI middleware."""

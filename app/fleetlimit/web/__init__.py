"""The edges that FastAPI and any ASGI app see: a dependency and a middleware over one core."""

"""Composition root: builds a limiter from settings and binds it to an app."""

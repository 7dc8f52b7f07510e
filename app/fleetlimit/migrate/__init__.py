"""Translator of the limits of slowapi and fastapi-limiter.

It reads source text with `ast` and never imports or runs it.
"""

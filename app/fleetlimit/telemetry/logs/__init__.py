"""Structured logs of decisions and state changes."""

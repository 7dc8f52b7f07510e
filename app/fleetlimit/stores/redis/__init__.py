"""Shared store over Redis, Valkey or a compatible server."""

"""Limits of calls to other services, for any HTTP client library."""

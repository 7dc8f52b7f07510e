"""Prometheus metrics of the limiter."""

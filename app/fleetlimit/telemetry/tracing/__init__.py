"""OpenTelemetry traces of checks and requests."""

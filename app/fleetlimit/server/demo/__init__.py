"""The demonstration: real replicas, one store, a crowd of requests, and a verdict."""

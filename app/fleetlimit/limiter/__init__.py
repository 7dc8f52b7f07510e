"""The service that decides: one limiter over a store, and the ports it needs."""

"""Admin port: metrics, health, the policies and resets. It is never rate limited."""

"""Admin port: metrics, health, policies, explanations and resets. It is never rate limited."""

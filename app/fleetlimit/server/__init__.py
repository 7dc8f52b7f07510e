"""The service: settings, the one place where all parts meet, and what it serves."""

"""Endpoints of the admin port. They are never rate limited."""

"""Rate limiting for FastAPI that holds across every replica, and shows that it does."""

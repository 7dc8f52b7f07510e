"""What the admin port offers; it is never limited."""

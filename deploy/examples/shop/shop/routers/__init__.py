"""Routes of the shop."""

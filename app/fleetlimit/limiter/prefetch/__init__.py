"""Prefetching: units are acquired ahead in one store call and spent locally."""

"""Values and arithmetic of rate limits: no clock, no I/O, no framework."""

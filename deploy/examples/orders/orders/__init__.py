"""A small service that knows nothing of Fleetlimit."""

"""The process `fleetlimit serve`: the API, the admin port and shutdown."""

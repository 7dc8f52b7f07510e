"""Example app without any dependency on Fleetlimit."""

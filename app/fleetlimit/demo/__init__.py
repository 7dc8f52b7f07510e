"""Demonstration `fleetlimit demo`: replicas, one store, a load generator and a verdict."""

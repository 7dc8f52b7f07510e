"""Demonstration `fleetlimit demo`: replicas over one store, a load generator and a result.

It is a client of the command and of the policy file: the replicas are `fleetlimit serve` processes.
"""

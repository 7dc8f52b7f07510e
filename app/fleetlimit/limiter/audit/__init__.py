"""Audit of overshoot: compares the units that all replicas admitted with each limit.

The audit observes; it never decides.
"""

"""Starts contenders one after the other, sends them load, and compares what they serve."""

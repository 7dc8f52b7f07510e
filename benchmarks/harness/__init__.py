"""Benchmark harness: starts contenders, sends them load and compares the results."""

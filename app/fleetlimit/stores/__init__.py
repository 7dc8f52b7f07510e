"""Stores of buckets: in this process, or in Redis or Valkey for all replicas."""

"""Where buckets live: in this process, or in Redis and its kin for all replicas."""

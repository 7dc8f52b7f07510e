"""The limiter: decides checks over a store, and defines the ports that it needs."""

"""Metrics that are not Fleetlimit's: of Prometheus, of its Python client, of redis_exporter."""

from typing import Final

UP: Final = "up"

PROCESS_CPU: Final = "process_cpu_seconds_total"
PROCESS_MEMORY: Final = "process_resident_memory_bytes"
PROCESS_START: Final = "process_start_time_seconds"

STORE_UP: Final = "redis_up"
STORE_ROLE: Final = "redis_instance_info"
STORE_MEMORY: Final = "redis_memory_used_bytes"
STORE_MEMORY_LIMIT: Final = "redis_memory_max_bytes"
STORE_COMMANDS: Final = "redis_commands_processed_total"
STORE_EVICTED: Final = "redis_evicted_keys_total"
STORE_KEYS: Final = "redis_db_keys"
STORE_CLIENTS: Final = "redis_connected_clients"

NAMES: Final = frozenset(
    {
        UP,
        PROCESS_CPU,
        PROCESS_MEMORY,
        PROCESS_START,
        STORE_UP,
        STORE_ROLE,
        STORE_MEMORY,
        STORE_MEMORY_LIMIT,
        STORE_COMMANDS,
        STORE_EVICTED,
        STORE_KEYS,
        STORE_CLIENTS,
    }
)

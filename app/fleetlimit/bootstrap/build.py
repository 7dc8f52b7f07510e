"""Builders of the limiter's parts, from the settings and the policy file's sections."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from redis.credentials import CredentialProvider

from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.core.keys import KeyScheme
from fleetlimit.errors import ConfigError
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.observers import Observer
from fleetlimit.limiter.ports import Clock, Store, Tracer
from fleetlimit.stores.memory import MemoryStore, wall_clock_us
from fleetlimit.stores.redis.client import Timeouts
from fleetlimit.stores.redis.credentials import Credentials
from fleetlimit.stores.redis.store import RedisStore
from fleetlimit.telemetry import PrometheusMetrics
from fleetlimit.telemetry.tracing.limiter import OpenTelemetryTracer


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Prefix a `ConfigError` with the argument, variable or file that caused it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def build_key_scheme(settings: Settings) -> KeyScheme:
    """Build the scheme that names keys and hashes identities.

    Raises:
        ConfigError: The secret or the prefix is invalid.
    """
    key = reveal(settings.key_secret)
    secret = key.encode() if key else None
    with _naming(settings.where("key_secret")):
        KeyScheme(secret)
    with _naming(settings.where("key_prefix")):
        return KeyScheme(secret, prefix=settings.key_prefix)


def build_local_store(settings: Settings, clock: Clock | None = None) -> MemoryStore:
    """Build an in-memory store, on the given clock or the process's own."""
    now_us = clock.monotonic_us if clock else wall_clock_us
    return MemoryStore(now_us, max_buckets=settings.memory_buckets)


def build_store(
    settings: Settings,
    keys: KeyScheme,
    clock: Clock | None = None,
    *,
    on_pipeline_sent: Callable[[int], None] = lambda _: None,
    tracer: Tracer | None = None,
    credential_provider: CredentialProvider | None = None,
) -> Store:
    """Build the store that the settings name.

    Args:
        settings: Settings with the URL, the credentials and the timeouts.
        keys: Scheme of the keys.
        clock: Clock of the buckets, for tests; by default the clock of the store's server.
        on_pipeline_sent: Callback with the number of calls of each pipeline.
        tracer: Tracer of the checks; store calls use its OpenTelemetry tracer for their spans.
        credential_provider: Provider of the credentials of each new connection.

    Raises:
        ConfigError: The URL is not a store URL, or the credentials cannot be used.
    """
    if settings.store in {"memory://", "memory"}:
        return build_local_store(settings, clock)
    if settings.store.endswith((".yaml", ".yml", ".json")) and "://" not in settings.store:
        raise ConfigError(
            f"{settings.where('store')}: {settings.store!r} is a policy file and not a store: "
            f"write Fleetlimit(policies={settings.store!r}), or FLEETLIMIT_POLICIES"
        )
    credentials = Credentials(
        settings.store_username,
        reveal(settings.store_password),
        settings.store_credentials_file,
        credential_provider,
    )
    with _naming(settings.where("store")):
        return RedisStore(
            settings.store,
            keys,
            timeouts=Timeouts(settings.store_connect_timeout, settings.store_timeout),
            credentials=credentials,
            now_us=clock.monotonic_us if clock else None,
            on_pipeline_sent=on_pipeline_sent,
            tracer=tracer.tracer if isinstance(tracer, OpenTelemetryTracer) else None,
        )


def build_limiter(
    settings: Settings,
    clock: Clock | None,
    *,
    metrics: PrometheusMetrics,
    observers: Sequence[Observer],
    failure_log: FailureLog,
    tracer: Tracer | None,
    credential_provider: CredentialProvider | None,
) -> Limiter:
    """Build the limiter with its stores.

    Args:
        settings: Settings of the store, the breaker, the replica and the audit.
        clock: Clock of buckets and caches, for tests; by default buckets use the store's clock.
        metrics: Metrics of the pipelines.
        observers: Observers of every event.
        failure_log: Log of failures of observers.
        tracer: Tracer of the checks.
        credential_provider: Provider of the credentials of each new connection.

    Raises:
        ConfigError: A setting of the store or of the keys cannot be used.
    """
    keys = build_key_scheme(settings)
    store = build_store(
        settings,
        keys,
        clock,
        on_pipeline_sent=metrics.on_pipeline_sent,
        tracer=tracer,
        credential_provider=credential_provider,
    )
    return Limiter(
        store,
        local=build_local_store(settings, clock),
        key_scheme=keys,
        observers=observers,
        tracer=tracer,
        clock=clock,
        breaker=BreakerSettings(settings.breaker_failures, settings.breaker_probe),
        replica=settings.replica,
        min_replicas=settings.min_replicas,
        audit_callers=settings.audit_callers,
        failure_log=failure_log,
    )


def build_logger(name: str) -> Any:
    """Return a structured logger, which writes to `logging` if the app has no structlog set up."""
    if structlog.is_configured():
        return structlog.get_logger(name)
    return structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False)],
        wrapper_class=structlog.stdlib.BoundLogger,
    )

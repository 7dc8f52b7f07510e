"""Composition root: `Fleetlimit` builds a limiter with its parts, and runs as a lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry
from redis.credentials import CredentialProvider
from starlette.applications import Starlette

from fleetlimit.bootstrap.build import (
    build_key_scheme,
    build_local_store,
    build_logger,
    build_store,
)
from fleetlimit.bootstrap.code_arguments import CodeArguments
from fleetlimit.bootstrap.gc_tuning import freeze_heap, raised_gc_threshold, unfreeze_heap
from fleetlimit.bootstrap.identity import IdentifierBuilder
from fleetlimit.bootstrap.rewriting_middleware import find_rewriting_middlewares
from fleetlimit.bootstrap.route_report import RouteReporter, has_middleware
from fleetlimit.bootstrap.settings import Settings, reveal
from fleetlimit.bootstrap.worker_processes import worker_processes
from fleetlimit.core.policy import PolicySet
from fleetlimit.errors import ConfigError
from fleetlimit.identity import PrincipalResolver, RequestIdentifier
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.events import Observer, PoliciesRejected, check_observers
from fleetlimit.limiter.failure_log import FailureLog
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.limiter.ports import Clock, Tracer
from fleetlimit.policy_file import IdentitySection, PolicyFile, PolicyWatcher, load
from fleetlimit.telemetry import (
    DenialLog,
    EventLog,
    EventLoopLagMonitor,
    PrometheusMetrics,
    TopDenied,
    names,
)
from fleetlimit.version import __version__
from fleetlimit.web import wiring
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.rewrite_detector import watch_routers
from fleetlimit.web.route_table import get_app_route_table

_FLUSH_SECONDS = 5.0
_POLL_SECONDS = 2.0
"""Polling interval of the policy file, in case a file-system notification is missed."""


class Fleetlimit(wiring.LimiterLifespan):
    """Limiter with its store, policies, identity and telemetry.

    As the lifespan of an app: `FastAPI(lifespan=Fleetlimit(store="redis://..."))`. Inside another
    lifespan: `async with Fleetlimit(...)(app): yield`.

    Args:
        store: URL of the shared store; by default `FLEETLIMIT_STORE`, or the memory of the process.
        policies: Policy file or policy set; by default `FLEETLIMIT_POLICIES`, or no policies.
        settings: Settings in place of the environment; `store` and `policies` override them.
        resolver: Async function of the request that verifies credentials that are neither API keys
            nor bearer tokens, within `FLEETLIMIT_FUNCTION_TIMEOUT`.
        credential_provider: Provider of the store's user and password, such as an IAM token. Each
            new connection asks it, within `FLEETLIMIT_STORE_CONNECT_TIMEOUT`.
        registry: Prometheus registry of the metrics, which has them until the end; by default a
            new one.
        observers: Further observers of every event.
        tracer: Tracer of the checks.
        clock: Clock of buckets and caches, for tests; by default buckets use the store's clock.
        tune_gc: Whether to tune the garbage collector of the process while the limiter runs: a
            higher generation-0 threshold, and a frozen heap in a lifespan.

    Raises:
        ConfigError: A setting, the policy file or an observer is invalid; nothing was started.
    """

    def __init__(
        self,
        store: str | None = None,
        policies: str | Path | PolicySet | None = None,
        *,
        settings: Settings | None = None,
        resolver: PrincipalResolver | None = None,
        credential_provider: CredentialProvider | None = None,
        registry: CollectorRegistry | None = None,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
        clock: Clock | None = None,
        tune_gc: bool = False,
    ) -> None:
        if isinstance(store, Starlette):
            # An app calls its lifespan with itself.
            raise ConfigError("lifespan=Fleetlimit is the class: write lifespan=Fleetlimit()")
        observers = check_observers(observers)
        if isinstance(policies, PolicySet):
            policy_set, file = policies, None
        else:
            policy_set, file = None, policies
        self.settings = Settings.merged_with(settings, store=store, policies=file)
        self.metrics = PrometheusMetrics(registry, version=__version__)
        self.top_denied = TopDenied()
        self._log = build_logger("fleetlimit")
        self._clock = clock or MonotonicClock()
        self._denial_log = DenialLog(
            self._clock, self._log, on_suppressed=self.metrics.on_denial_suppressed
        )
        self._event_log = EventLog(self._clock, self._log)
        self._failure_log = FailureLog(self._clock)
        keys = build_key_scheme(self.settings)
        self.limiter = Limiter(
            build_store(
                self.settings,
                keys,
                clock,
                on_pipeline_sent=self.metrics.on_pipeline_sent,
                tracer=tracer,
                credential_provider=credential_provider,
            ),
            local=build_local_store(self.settings, clock),
            key_scheme=keys,
            observers=(
                self.metrics,
                self.top_denied,
                self._denial_log,
                self._event_log,
                *observers,
            ),
            tracer=tracer,
            clock=self._clock,
            breaker=BreakerSettings(self.settings.breaker_failures, self.settings.breaker_probe),
            replica=self.settings.replica,
            min_replicas=self.settings.min_replicas,
            audit_callers=self.settings.audit_callers,
            failure_log=self._failure_log,
        )
        self._identifier_builder = IdentifierBuilder(
            resolver,
            resolver_timeout_s=self.settings.function_timeout,
            failure_log=self._failure_log,
        )
        self._policies_path = None if policy_set else self.settings.policies
        if self._policies_path is not None:
            self.policy_file = load(self._policies_path, generation=1)
        else:
            self.policy_file = PolicyFile(policy_set or PolicySet(), IdentitySection())
        # Errors of a changed policy file that was rejected; empty once a later one is valid.
        self.rejected_policies: tuple[str, ...] = ()
        self._code_arguments = CodeArguments(
            self.settings,
            _given_settings(settings, store),
            policies=self.policy_file.policy_set
            if policies is not None or (settings is not None and settings.policies is not None)
            else None,
            resolver=resolver,
            observers=observers,
            unshareable=tuple(
                name
                for name, value in (
                    ("credential_provider", credential_provider),
                    ("registry", registry),
                    ("tracer", tracer),
                    ("clock", clock),
                )
                if value is not None
            ),
        )
        section = self.policy_file.identity
        # A wrong section is an error here, before anything is started.
        self._identifier_builder.build(section)
        self.http_limiter = HTTPLimiter(
            self.limiter,
            wiring.NotStarted(repr(self)),
            header_format=self.settings.headers,
            reject_invalid=section.reject_invalid,
            function_timeout_s=self.settings.function_timeout,
            failure_log=self._failure_log,
        )
        self.route_reporter = RouteReporter(self._log, self.http_limiter)
        self._tasks: list[PeriodicTask | EventLoopLagMonitor] = []
        self._tune_gc = tune_gc
        self._exit_stack = contextlib.ExitStack()

    def __repr__(self) -> str:
        policies = self._policies_path or f"{len(self.policy_file.policy_set.policies)} in code"
        return f"Fleetlimit(store={self.limiter.store.location!r}, policies={str(policies)!r})"

    async def start(self) -> None:
        """Activate the policies, connect to the store and watch the policy file.

        An unavailable store is logged and retried. It does not prevent the start.

        Raises:
            ConfigError: This was started before, and not closed; or the registry has the metrics of
                another `Fleetlimit` that was not closed; or `fleetlimit serve` runs, whose limiter
                an app uses.
        """
        wiring.require_not_served(repr(self))
        await self._start()

    async def _start(self) -> None:
        if self._tasks:
            raise ConfigError(
                f"{self!r} runs already: a mounted app without a lifespan uses the limiter of the "
                "app around it; another app needs a Fleetlimit of its own"
            )
        self.metrics.register()
        self._exit_stack.callback(self.metrics.unregister)
        wiring.mark_started(self.limiter, repr(self))
        self._exit_stack.callback(wiring.mark_closed, self.limiter)
        self.activate_policies()
        self.warn_of_missing_settings()
        await self.start_background_work()

    async def start_background_work(self) -> None:
        """Connect to the store and watch the policy file; call `activate_policies` first."""
        if self._tune_gc:
            self._exit_stack.enter_context(raised_gc_threshold())
        await self.limiter.start()
        self._tasks = [
            PeriodicTask(self._flush, _FLUSH_SECONDS, failure_event="background.failed"),
            EventLoopLagMonitor(self.metrics.on_event_loop_lag, self._clock),
        ]
        if self._policies_path is not None:
            watcher = PolicyWatcher(
                self._policies_path,
                initial=self.policy_file,
                on_loaded=self._on_reload,
                on_rejected=self._on_rejected,
                poll_s=_POLL_SECONDS,
            )
            # `run` returns only by an exception, after which the file is watched again.
            self._tasks.append(
                PeriodicTask(
                    watcher.run, _POLL_SECONDS, failure_event="background.failed", immediate=True
                )
            )
        for task in self._tasks:
            task.start()

    def activate_policies(self) -> None:
        """Activate the policies and the identity; before this, each request is an error."""
        self.limiter.active_policies.replace(self.policy_file.policy_set)
        self.http_limiter.identifier = self._identifier_builder.build(self.policy_file.identity)

    def warn_of_missing_settings(self) -> None:
        """Log a warning about limits per process, hashes without a secret, and shared names."""
        if not self.limiter.store.shared:
            self._log.warning(
                "store.not_shared",
                detail="limits hold within this process only; set FLEETLIMIT_STORE=redis://... or "
                "Fleetlimit(store=...) to share them",
            )
        elif reveal(self.settings.key_secret) is None:
            self._log.warning(
                "keys.not_secret",
                detail="identities are hashed without a secret, so they can be guessed; set "
                "FLEETLIMIT_KEY_SECRET to the same value for all replicas",
            )
        if self.limiter.store.shared and self.settings.replica and worker_processes() > 1:
            self._log.warning(
                "replicas.one_name",
                replica=self.settings.replica,
                detail="the worker processes have the name of FLEETLIMIT_REPLICA and count as one "
                "replica, so that each admits the share of all while the store is unavailable; "
                "leave it out",
            )

    def _on_rejected(self, errors: tuple[str, ...]) -> None:
        self.rejected_policies = errors
        self.limiter.emit(PoliciesRejected(errors))

    async def _on_reload(self, policy_file: PolicyFile) -> None:
        self.route_reporter.require_named_policies(policy_file.policy_set)
        self.http_limiter.identifier = await self._build_identifier(policy_file.identity)
        self.http_limiter.reject_invalid = policy_file.identity.reject_invalid
        self.limiter.active_policies.replace(policy_file.policy_set)
        # In a thread: many routes and policies take some 100 ms to compare.
        await asyncio.to_thread(self.route_reporter.warn_of_unused, policy_file.policy_set)
        self.policy_file = policy_file
        self.rejected_policies = ()

    async def _build_identifier(self, section: IdentitySection) -> RequestIdentifier:
        builder = self._identifier_builder
        while True:
            resolver = builder.resolver
            # A file with many keys takes about a second to read, which must not block the event
            # loop. An app may meanwhile start and have its resolver adopted.
            identifier = await asyncio.to_thread(builder.build, section)
            if builder.resolver is resolver:
                return identifier

    async def _flush(self) -> None:
        """Log the counts of suppressed lines even when no further event triggers it."""
        self._denial_log.flush()
        self._event_log.flush()
        self._failure_log.flush()
        self.metrics.flush()

    async def aclose(self) -> None:
        """Stop the background tasks, leave the membership, close the store and flush the logs.

        Raises:
            ConfigError: This was started in another event loop, which is running; call it there.
        """
        self.limiter.require_own_loop()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            await task.stop()
        try:
            await self.limiter.aclose()
        finally:
            self._exit_stack.close()
            self._denial_log.close()
            self._event_log.close()
            self._failure_log.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @contextlib.asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[dict[str, HTTPLimiter]]:
        """Serve as the lifespan of an app: start, install on the app, and close at the end.

        Under `fleetlimit serve` the limiter of `serve` is used, with the resolver and the observers
        of this one.

        Raises:
            ConfigError: A dependency of the app names a policy that does not exist, or this
                `Fleetlimit` has arguments that `fleetlimit serve` cannot apply.
        """
        serving = wiring.get_serving_limiter(app)
        if isinstance(serving, Fleetlimit):
            serving.adopt(self._code_arguments)
            if not wiring.has_limiter(app):
                # An app inside an opaque one, whose middleware applies policies by their match.
                serving.install_behind_middleware(app)
            self.limiter, self.http_limiter = serving.limiter, serving.http_limiter
            self.metrics, self.top_denied = serving.metrics, serving.top_denied
            yield {wiring.LIMITER_KEY: self.http_limiter}
            return
        await self._start()
        async with contextlib.aclosing(self):
            try:
                self._warn_about_workers()
                self.install(app)
                if self._tune_gc:
                    freeze_heap()
                    self._exit_stack.callback(unfreeze_heap)
                yield {wiring.LIMITER_KEY: self.http_limiter}
            finally:
                wiring.uninstall(app, self.http_limiter)

    def _warn_about_workers(self) -> None:
        workers = worker_processes()
        if workers > 1:
            self._log.warning(
                "metrics.per_process",
                workers=workers,
                detail="each worker process has metrics of its own, and a scrape of /metrics in "
                "the app reaches any one of them: run one process per pod and scale by replicas",
            )

    def adopt(self, arguments: CodeArguments) -> None:
        """Take over the resolver and the observers of a served app's own `Fleetlimit`.

        Raises:
            ConfigError: There are arguments that cannot be taken over, or that differ from the
                settings and policies of this limiter.
        """
        active = self.limiter.active_policies.current
        builder = self._identifier_builder
        arguments.require_adoptable(self.settings, active, builder.resolver)
        if arguments.resolver is not None:
            builder.resolver = arguments.resolver
            self.http_limiter.identifier = builder.build(self.policy_file.identity)
        self.limiter.add_observers(arguments.observers)

    def install(self, app: Starlette) -> None:
        """Make this the limiter of an app and of its mounted apps, and log each route's policies.

        Mounted apps that have a `Fleetlimit` of their own keep it.

        Raises:
            ConfigError: A dependency names a policy that does not exist.
        """
        self._install(app, match_policies=has_middleware(app))

    def install_behind_middleware(self, app: Starlette) -> None:
        """Install as `install` does, for an app behind a middleware that it does not have itself.

        Raises:
            ConfigError: A dependency names a policy that does not exist.
        """
        self._install(app, match_policies=True)

    def _install(self, app: Starlette, *, match_policies: bool) -> None:
        wiring.install(app, self.http_limiter)
        if match_policies:
            watch_routers(app)
            for each in find_rewriting_middlewares(app):
                self._log.warning(
                    names.LOG_MIDDLEWARE_REWRITES,
                    middleware=each.name,
                    changes=list(each.changes),
                    detail="policies are selected before this middleware runs: call "
                    "app.add_middleware(RateLimitMiddleware) before app.add_middleware of this "
                    "middleware",
                )
        self.route_reporter.log_routes(
            get_app_route_table(app.router), match_policies=match_policies
        )


def _given_settings(settings: Settings | None, store: str | None) -> tuple[str, ...]:
    """Return the names of the settings that code gives, without policies and replica name."""
    if settings is None:
        return ("store",) if store is not None else ()
    return tuple(name for name in Settings.model_fields if name not in {"policies", "replica"})

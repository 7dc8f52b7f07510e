"""Composition root: `Fleetlimit` builds a limiter with its parts, and runs as a lifespan."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry
from redis.credentials import CredentialProvider
from starlette.applications import Starlette

from fleetlimit.bootstrap.app_installation import AppInstallation
from fleetlimit.bootstrap.app_middlewares import has_middleware
from fleetlimit.bootstrap.background import BackgroundWork
from fleetlimit.bootstrap.build import build_limiter, build_logger
from fleetlimit.bootstrap.code_arguments import (
    CodeArguments,
    given_names,
    given_settings,
    require_no_app,
)
from fleetlimit.bootstrap.gc_tuning import freeze_heap, raised_gc_threshold, unfreeze_heap
from fleetlimit.bootstrap.identity import IdentifierBuilder
from fleetlimit.bootstrap.limiter_logs import LimiterLogs
from fleetlimit.bootstrap.policy_reload import PolicyReload, read_policies
from fleetlimit.bootstrap.route_report import RouteReporter
from fleetlimit.bootstrap.setting_warnings import (
    warn_of_ignored_handlers,
    warn_of_missing_settings,
    warn_of_worker_processes,
)
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.call_advice import FLEETLIMIT_NAMES, advised
from fleetlimit.core.exemption import to_exemption
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.core.quota import SECOND_US, duration_us
from fleetlimit.errors import ConfigError
from fleetlimit.identity import PrincipalResolver
from fleetlimit.limiter.clock import MonotonicClock
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.observers import Observer, check_observers
from fleetlimit.limiter.ports import Clock, Tracer
from fleetlimit.limiter.provided_limits import DEFAULT_TTL_S, LimitsProvider
from fleetlimit.policy_file import PolicyFile
from fleetlimit.telemetry import PrometheusMetrics, TopDenied
from fleetlimit.version import __version__
from fleetlimit.web import wiring
from fleetlimit.web.app_limiter import LIMITER_KEY, LimiterLifespan, has_limiter
from fleetlimit.web.exemptions import require_exempt_function
from fleetlimit.web.header_layout import HeaderSpec
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.inline_policy import Exempt
from fleetlimit.web.manual_limiter import RUNNING_LIMITERS, ManualLimiter
from fleetlimit.web.openapi import undocument_app
from fleetlimit.web.rejections import OnRejected, RejectionSender, require_truth_value
from fleetlimit.web.serving_limiter import get_serving_limiter, require_not_served
from fleetlimit.web.sync_limiter import LoopThread
from fleetlimit.web.unused_limiters import mark_closed, mark_made, mark_started


class Fleetlimit(LimiterLifespan, ManualLimiter):
    """Limiter with its store, policies, identity and telemetry.

    As the lifespan of an app: `FastAPI(lifespan=Fleetlimit(store="redis://..."))`. Inside another
    lifespan: `async with Fleetlimit(...)(app): yield`. In a job or script: `async with
    Fleetlimit(...) as limits: await limits.check("emails", principal="alice")`.

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
        exempt: Requests that no policy limits: an `Exemption`, or a function of the connection,
            plain or async, that returns a `bool`, within `FLEETLIMIT_FUNCTION_TIMEOUT`.
        limits: Function of a verified caller and the name of a policy, plain or async, that returns
            the caller's own limits under the policy: a rate, a `Limit`, a list of them, or None for
            those of the policy.
        limits_ttl: Seconds, or a `timedelta`, that an answer of `limits` is used.
        observers: Further observers of every event.
        tracer: Tracer of the checks.
        clock: Clock of buckets and caches, for tests; by default buckets use the store's clock.
        headers: Format of the limit headers, such as `github`; a mapping of fields to header names;
            or several of both. By default `FLEETLIMIT_HEADERS`, or `draft-11`.
        on_rejected: Function of the connection, the decision (None without one) and the ready
            `ProblemResponse` of a rejection, plain or async. It changes that response, or returns
            another one, within `FLEETLIMIT_FUNCTION_TIMEOUT` if it is async. After an error of the
            function the ready response is sent.
        use_exception_handlers: Whether the app's exception handlers for `HTTPException`, for a
            status or for `RateLimitExceeded` answer the rejections of the middleware, too.
        openapi: Whether the OpenAPI schema of the app states the limits of each route.
        tune_gc: Whether to tune the garbage collector of the process while the limiter runs: a
            higher generation-0 threshold, and a frozen heap in a lifespan.

    Raises:
        ConfigError: A setting, the policy file or an observer is invalid; nothing was started.
    """

    @advised(
        'Fleetlimit("redis://localhost:6379/0", policies="policies.yaml")',
        {
            **{name: f"write settings=Settings({name}=...)" for name in Settings.model_fields},
            **FLEETLIMIT_NAMES,
        },
    )
    def __init__(
        self,
        store: str | None = None,
        policies: str | Path | PolicySet | None = None,
        *,
        settings: Settings | None = None,
        resolver: PrincipalResolver | None = None,
        credential_provider: CredentialProvider | None = None,
        registry: CollectorRegistry | None = None,
        exempt: Exempt = None,
        limits: LimitsProvider | None = None,
        limits_ttl: float | timedelta = DEFAULT_TTL_S,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
        clock: Clock | None = None,
        headers: HeaderSpec | None = None,
        on_rejected: OnRejected | None = None,
        use_exception_handlers: bool = False,
        openapi: bool = True,
        tune_gc: bool = False,
    ) -> None:
        require_no_app(store)
        observers = check_observers(observers)
        exemption = to_exemption(exempt)
        require_exempt_function(exemption)
        require_truth_value("openapi", openapi)
        rejection_sender = RejectionSender(
            on_rejected, use_exception_handlers=use_exception_handlers
        )
        if isinstance(policies, PolicySet):
            policy_set, file = policies, None
        else:
            policy_set, file = None, policies
        self.settings = Settings.merged_with(settings, store=store, policies=file, headers=headers)
        self.metrics = PrometheusMetrics(registry, version=__version__)
        self.top_denied = TopDenied()
        self._log = build_logger("fleetlimit")
        self._clock = clock or MonotonicClock()
        self._logs = LimiterLogs(self._clock, self._log, self.metrics)
        self.limiter: Limiter = build_limiter(
            self.settings,
            clock,
            metrics=self.metrics,
            observers=(self.metrics, self.top_denied, *self._logs.observers, *observers),
            failure_log=self._logs.failures,
            tracer=tracer,
            credential_provider=credential_provider,
        )
        self._identifier_builder = IdentifierBuilder(
            resolver,
            resolver_timeout_s=self.settings.function_timeout,
            failure_log=self._logs.failures,
        )
        self._policies_path = None if policy_set else self.settings.policies
        policy_file = read_policies(self._policies_path, policy_set)
        self._policies_text = (
            f"{len(policy_file.policy_set.policies)} in code"
            if self._policies_path is None
            else str(self._policies_path)
        )
        self._code_arguments = CodeArguments(
            self.settings,
            given_settings(settings, store=store, headers=headers),
            policies=policy_file.policy_set
            if policies is not None or (settings is not None and settings.policies is not None)
            else None,
            resolver=resolver,
            exempt=exemption,
            limits=None if limits is None else (limits, duration_us(limits_ttl) / SECOND_US),
            observers=observers,
            rejection_sender=rejection_sender,
            unshareable=given_names(
                credential_provider=credential_provider,
                registry=registry,
                tracer=tracer,
                clock=clock,
            ),
        )
        section = policy_file.identity
        # A wrong section is an error here, before anything is started.
        self._identifier_builder.build(section)
        self.http_limiter = HTTPLimiter(
            self.limiter,
            wiring.NotStarted(repr(self)),
            header_format=self.settings.headers,
            reject_invalid=section.reject_invalid,
            function_timeout_s=self.settings.function_timeout,
            failure_log=self._logs.failures,
            rejection_sender=rejection_sender,
        )
        self._code_arguments.apply(self.http_limiter, self._clock)
        self.route_reporter = RouteReporter(
            self._log, self.http_limiter, self.metrics.on_routes_limited
        )
        self.policy_reload = PolicyReload(
            policy_file, self._identifier_builder, self.http_limiter, self.route_reporter
        )
        self._background = BackgroundWork(
            self._logs, self.metrics, self.route_reporter, self._clock
        )
        self._tune_gc = tune_gc
        self._is_closed = False
        self._sync_thread = LoopThread(self._running_loop, self.start, self.aclose)
        self.installation = AppInstallation(
            self.http_limiter, self.policy_reload, self.route_reporter, self._log, openapi=openapi
        )
        self._exit_stack = contextlib.ExitStack()
        mark_made(self.limiter, repr(self))

    @property
    def policy_file(self) -> PolicyFile:
        """The policies in effect, with their identity section."""
        return self.policy_reload.policy_file

    @property
    def rejected_policies(self) -> tuple[str, ...]:
        """Errors of a changed policy file that was rejected; empty once a later one is valid."""
        return self.policy_reload.errors

    @property
    def resolver(self) -> PrincipalResolver | None:
        """The app's function that verifies other credentials than API keys and tokens."""
        return self._identifier_builder.resolver

    def __repr__(self) -> str:
        return (
            f"Fleetlimit(store={self.limiter.store.location!r}, policies={self._policies_text!r})"
        )

    def invalidate_limits(self, principal: str | None = None) -> None:
        """Drop the cached answers of `limits` in this process, after a change of a plan.

        Other replicas use theirs until `limits_ttl`.

        Args:
            principal: Name of the caller; None for all callers.
        """
        if self.limiter.provided_limits is not None:
            self.limiter.provided_limits.invalidate(principal)

    async def start(self) -> None:
        """Activate the policies, connect to the store and watch the policy file.

        An unavailable store is logged and retried. It does not prevent the start.

        Raises:
            ConfigError: This was started before, and not closed; or the registry has the metrics of
                another `Fleetlimit` that was not closed; or `fleetlimit serve` runs, whose limiter
                an app uses.
        """
        require_not_served(repr(self))
        await self._start()

    async def _start(self) -> None:
        if self._background.tasks:
            raise ConfigError(
                f"{self!r} runs already: a mounted app without a lifespan uses the limiter of the "
                "app around it; another app needs a Fleetlimit of its own"
            )
        self.metrics.register()
        self._is_closed = False
        RUNNING_LIMITERS.add(self)
        self._exit_stack.callback(self.metrics.unregister)
        mark_started(self.limiter, repr(self))
        self._exit_stack.callback(mark_closed, self.limiter)
        self.activate_policies()
        self.warn_of_missing_settings()
        await self.start_background_work()

    async def start_background_work(self) -> None:
        """Connect to the store and watch the policy file; call `activate_policies` first."""
        if self._tune_gc:
            self._exit_stack.enter_context(raised_gc_threshold())
        await self.limiter.start()
        path = self._policies_path
        self._background.start(*([] if path is None else [self.policy_reload.watch(path)]))

    def warn_of_missing_settings(self) -> None:
        """Log a warning about limits per process, hashes without a secret, and shared names."""
        warn_of_missing_settings(self._log, self.settings, self.limiter.store)

    def activate_policies(self) -> None:
        """Activate the policies and the identity; before this, each request is an error."""
        self.policy_reload.activate()

    async def aclose(self) -> None:
        """Stop the background tasks, leave the membership, close the store and flush the logs.

        Raises:
            ConfigError: This was started in another event loop, which is running; call it there.
        """
        self.limiter.require_own_loop()
        self._is_closed = True
        RUNNING_LIMITERS.discard(self)
        await self._background.stop()
        try:
            await self.limiter.aclose()
        finally:
            self._exit_stack.close()
            self._logs.close()

    def _running_limiter(self) -> HTTPLimiter:
        if self._is_closed or isinstance(self.http_limiter.identifier, wiring.NotStarted):
            state = "was closed" if self._is_closed else "was not started"
            raise ConfigError(
                f"{self!r} {state}: write `async with Fleetlimit(...) as limits`, or "
                "FastAPI(lifespan=limits) and run that lifespan"
            )
        return self.http_limiter

    def _loop_thread(self) -> LoopThread:
        # One for all: two threads must not start the limiter at the same time.
        return self._sync_thread

    def _running_loop(self) -> asyncio.AbstractEventLoop | None:
        # The loop of a limiter that was not started, or was closed, may still run.
        return self.limiter.running_loop if self in RUNNING_LIMITERS else None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @contextlib.asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[dict[str, HTTPLimiter]]:
        """Serve as the lifespan of an app: start, install on the app, and close at the end.

        Under `fleetlimit serve` the limiter of `serve` is used, with the functions and the
        observers of this one.

        Raises:
            ConfigError: A dependency of the app names a policy that does not exist, or this
                `Fleetlimit` has arguments that `fleetlimit serve` cannot apply.
        """
        warn_of_ignored_handlers(self._log, app)
        serving = get_serving_limiter(app)
        if isinstance(serving, Fleetlimit):
            serving.adopt(self._code_arguments)
            if not self.installation.openapi:
                undocument_app(app)
            if not has_limiter(app):
                # An app inside an opaque one, whose middleware applies policies by their match.
                serving.installation.install(app, match_policies=True)
            self.limiter, self.http_limiter = serving.limiter, serving.http_limiter
            self.installation.http_limiter = self.http_limiter
            self.metrics, self.top_denied = serving.metrics, serving.top_denied
            RUNNING_LIMITERS.add(self)
            try:
                yield {LIMITER_KEY: self.http_limiter}
            finally:
                RUNNING_LIMITERS.discard(self)
            return
        await self._start()
        async with contextlib.aclosing(self):
            try:
                warn_of_worker_processes(self._log)
                self.install(app)
                if self._tune_gc:
                    freeze_heap()
                    self._exit_stack.callback(unfreeze_heap)
                yield {LIMITER_KEY: self.http_limiter}
            finally:
                wiring.uninstall(app, self.http_limiter)
                undocument_app(app)

    def adopt(self, arguments: CodeArguments) -> None:
        """Take over the functions and the observers of a served app's own `Fleetlimit`.

        Raises:
            ConfigError: There are arguments that cannot be taken over, or that differ from the
                settings and policies of this limiter.
        """
        active = self.limiter.active_policies.current
        builder = self._identifier_builder
        arguments.require_adoptable(
            self.settings, active, builder.resolver, self.http_limiter.rejection_sender
        )
        if arguments.rejection_sender.is_needed:
            self.http_limiter.rejection_sender = arguments.rejection_sender
        self._adopt_functions(arguments)
        self.limiter.add_observers(arguments.observers)

    def adopt_functions(self, other: "Fleetlimit") -> None:
        """Take over the resolver, the exemption and the callers' limits of another `Fleetlimit`."""
        self._adopt_functions(other._code_arguments)  # noqa: SLF001 - of the same class

    def _adopt_functions(self, arguments: CodeArguments) -> None:
        arguments.apply(self.http_limiter, self._clock)
        if arguments.resolver is not None:
            builder = self._identifier_builder
            builder.resolver = arguments.resolver
            self.http_limiter.identifier = builder.build(self.policy_file.identity)

    def install(self, app: Starlette) -> None:
        """Make this the limiter of an app and of its mounted apps, and log each route's policies.

        Mounted apps that have a `Fleetlimit` of their own keep it.

        Raises:
            ConfigError: A dependency names a policy that does not exist.
        """
        self.installation.install(app, match_policies=has_middleware(app))

    def document(self, app: Starlette, *, match_policies: bool) -> None:
        """State the limits in the OpenAPI schemas of an app and of its mounted apps.

        Args:
            app: The app.
            match_policies: Whether the app has the middleware, which applies policies by their
                match.
        """
        self.installation.document(app, match_policies=match_policies)

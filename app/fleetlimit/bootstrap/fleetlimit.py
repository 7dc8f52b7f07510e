"""Fleetlimit itself: the one place where the parts meet, opened in an app's lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Self

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from fleetlimit.bootstrap.build import (
    Resolver,
    build_identifier,
    build_keys,
    build_local_store,
    build_logger,
    build_store,
)
from fleetlimit.bootstrap.gc_tuning import fewer_rounds, freeze, unfreeze
from fleetlimit.bootstrap.route_report import Coverage, has_middleware, with_mounted
from fleetlimit.bootstrap.settings import Settings, secret
from fleetlimit.bootstrap.tasks import Background
from fleetlimit.core.policy import PolicySet
from fleetlimit.limiter.circuit_breaker import BreakerSettings
from fleetlimit.limiter.events import Observer, PoliciesRejected
from fleetlimit.limiter.limiter import Limiter, MonotonicClock
from fleetlimit.limiter.ports import Clock, Tracer
from fleetlimit.policy_file import IdentitySection, Loaded, PolicyWatcher, load
from fleetlimit.telemetry import DenialLog, EventLog, Metrics, TopDenied, watch_lag
from fleetlimit.version import __version__
from fleetlimit.web.http_limiter import Gate
from fleetlimit.web.route_table import RouteTable, scan

_FLUSH_SECONDS = 5.0
_POLL_SECONDS = 2.0
"""After which a changed file is found that the system did not tell of, as while a watch begins."""


class Fleetlimit:
    """A limiter with everything it needs.

    As the lifespan of an app: `FastAPI(lifespan=Fleetlimit(store="redis://..."))`, or within one's
    own: `async with Fleetlimit(...)(app): yield`.

    Args:
        store: URL of the shared store; `FLEETLIMIT_STORE`, or this process alone, when left out.
        policies: Policy file, or a set made in code; `FLEETLIMIT_POLICIES`, or none, when left out.
        settings: All settings, in place of the environment; `store` and `policies` come first.
        resolver: Verifies credentials that are neither API keys nor bearer tokens.
        registry: Where metrics are registered; a registry of its own when left out.
        observers: Further observers of every event.
        tracer: How checks are traced.
        clock: A clock that tests move, for buckets and caches alike; by default buckets run on the
            store's clock.

    Raises:
        ConfigError: A setting or the policy file is wrong; nothing is started.
    """

    def __init__(
        self,
        store: str | None = None,
        policies: str | Path | PolicySet | None = None,
        *,
        settings: Settings | None = None,
        resolver: Resolver | None = None,
        registry: CollectorRegistry | None = None,
        observers: Sequence[Observer] = (),
        tracer: Tracer | None = None,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(policies, PolicySet):
            made, file = policies, None
        else:
            made, file = None, policies
        self.settings = Settings.over(settings, store=store, policies=file)
        self.metrics = Metrics(registry, version=__version__)
        self.top_denied = TopDenied()
        self._log = build_logger("fleetlimit")
        self._clock = clock or MonotonicClock()
        self._denials = DenialLog(self._clock, self._log, suppressed=self.metrics.denial_suppressed)
        self._events = EventLog(self._clock, self._log)
        keys = build_keys(self.settings)
        self.limiter = Limiter(
            build_store(self.settings, keys, clock, sent=self.metrics.batch_sent, tracer=tracer),
            local=build_local_store(clock),
            keys=keys,
            observers=(self.metrics, self.top_denied, self._denials, self._events, *observers),
            tracer=tracer,
            clock=self._clock,
            breaker=BreakerSettings(self.settings.breaker_failures, self.settings.breaker_probe),
            replica=self.settings.replica,
            min_replicas=self.settings.min_replicas,
            audit_keys=self.settings.audit_keys,
        )
        self._resolver = resolver
        self._file = None if made else self.settings.policies
        if self._file is not None:
            self.loaded = load(self._file, generation=1)
        else:
            self.loaded = Loaded(made or PolicySet(), IdentitySection())
        section = self.loaded.identity
        self.gate = Gate(
            self.limiter,
            build_identifier(section, resolver),
            dialect=self.settings.dialect,
            reject_invalid=section.reject_invalid,
        )
        self.coverage = Coverage(self._log, self.gate)
        self._background = Background(self._log)
        self._following = contextlib.ExitStack()

    async def start(self) -> None:
        """Connect to the store, put the policies in force and follow their file.

        A store that is away is logged and tried again; it does not keep the service from starting.
        """
        self.enforce()
        await self.follow()

    async def follow(self) -> None:
        """Connect to the store and follow the policies' file; `enforce` came before."""
        self._following.enter_context(fewer_rounds())
        await self.limiter.start()
        self._background.run(self._flush())
        self._background.run(watch_lag(self.metrics.loop_lagged, self._clock))
        if self._file is not None:
            watcher = PolicyWatcher(
                self._file,
                initial=self.loaded,
                on_loaded=self._reloaded,
                on_rejected=lambda errors: self.limiter.tell(PoliciesRejected(errors)),
                poll_s=_POLL_SECONDS,
            )
            self._background.run(watcher.run())

    def enforce(self) -> None:
        """Put the policies in force, and warn of what makes them hold less than they could."""
        self.limiter.policies.replace(self.loaded.policies)
        if not self.limiter.store.shared:
            self._log.warning(
                "store.not_shared",
                detail="limits hold within this process only; set FLEETLIMIT_STORE=redis://... or "
                "Fleetlimit(store=...) to share them",
            )
        elif secret(self.settings.key_secret) is None:
            self._log.warning(
                "keys.not_secret",
                detail="identities are hashed without a secret, so they can be guessed; set "
                "FLEETLIMIT_KEY_SECRET to the same value for all replicas",
            )

    async def _reloaded(self, loaded: Loaded) -> None:
        self.coverage.check(loaded.policies)
        # A file of many keys takes a second to read: not one in which no request is answered.
        self.gate.identifier = await asyncio.to_thread(
            build_identifier, loaded.identity, self._resolver
        )
        self.gate.reject_invalid = loaded.identity.reject_invalid
        self.limiter.policies.replace(loaded.policies)

    async def _flush(self) -> None:
        """Write out counts of suppressed lines, also when nothing follows that would."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            self._denials.flush()
            self._events.flush()
            self.metrics.flush()

    async def aclose(self) -> None:
        """Leave the fleet, close the store and write out what the logs still hold."""
        await self._background.aclose()
        try:
            await self.limiter.aclose()
        finally:
            self._following.close()
            self._denials.close()
            self._events.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @contextlib.asynccontextmanager
    async def __call__(self, app: Any) -> AsyncIterator[dict[str, Gate]]:
        """Serve as the lifespan of an app: open for as long as it lives.

        Behind `fleetlimit serve` the limiter that stands in front is this one's too: a second one
        would count the replica twice and know other policies.
        """
        front = getattr(app.state, "fleetlimit_front", None)
        if isinstance(front, Fleetlimit):
            self._stand_behind(front)
            yield {"fleetlimit": self.gate}
            return
        async with self:
            self.attach(app)
            freeze()
            try:
                yield {"fleetlimit": self.gate}
            finally:
                unfreeze()

    def _stand_behind(self, front: "Fleetlimit") -> None:
        enforced = front.loaded.policies.policies
        ignored = [each.name for each in self.loaded.policies.policies if each not in enforced]
        if ignored:
            self._log.warning(
                "policies.ignored",
                policies=ignored,
                detail="the policies of `fleetlimit serve` are in force; name the file with "
                "FLEETLIMIT_POLICIES",
            )
        self.limiter, self.gate = front.limiter, front.gate

    def attach(self, app: Starlette) -> None:
        """Make this the gate of an app and of the apps mounted in it, and log what holds there.

        Raises:
            ConfigError: A dependency names a policy that is not there.
        """
        for each in with_mounted(app):
            each.state.fleetlimit = self.gate
        self.coverage.tell(RouteTable(scan(app.routes)), matched=has_middleware(app))


_defaults = Background(logging.getLogger("fleetlimit"))


def open_default() -> Gate:
    """Open a gate for an app that sets up none, from the environment.

    A shared store is closed when the event loop ends. Until it is connected, checks connect by
    themselves.
    """
    fleetlimit = Fleetlimit()
    fleetlimit.enforce()
    _defaults.run(_hold_open(fleetlimit))
    return fleetlimit.gate


async def _hold_open(fleetlimit: Fleetlimit) -> None:
    task = asyncio.current_task()
    try:
        await fleetlimit.follow()
        # Before Python 3.12 `asyncio.wait_for`, which the driver uses, may swallow a cancellation.
        if task is not None and not task.cancelling():
            await asyncio.Event().wait()
    finally:
        # A test client makes a loop for each request: what this process alone counts stays.
        if fleetlimit.limiter.store.shared:
            await fleetlimit.aclose()

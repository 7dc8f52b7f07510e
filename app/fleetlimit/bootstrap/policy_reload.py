"""Reload of the policy file: its policies and identity take effect together, or not at all."""

import asyncio
from pathlib import Path
from typing import Final

from fleetlimit.bootstrap.identity import IdentifierBuilder
from fleetlimit.bootstrap.route_report import RouteReporter
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.identity import RequestIdentifier
from fleetlimit.limiter.events import PoliciesRejected
from fleetlimit.limiter.periodic import PeriodicTask
from fleetlimit.policy_file import IdentitySection, PolicyFile, PolicyWatcher, load
from fleetlimit.web.http_limiter import HTTPLimiter
from fleetlimit.web.route_policies import require_functions

_POLL_SECONDS: Final = 2.0
"""Polling interval of the policy file, in case a file-system notification is missed."""


def read_policies(path: Path | None, policies: PolicySet | None) -> PolicyFile:
    """Return the policies of a file, or those from code, or none.

    Raises:
        ConfigError: The file is invalid, or a function of a policy cannot be called.
    """
    if path is not None:
        policy_file = load(path, generation=1)
    else:
        policy_file = PolicyFile(policies or PolicySet(), IdentitySection())
    for policy in policy_file.policy_set.policies:
        require_functions(policy)
    return policy_file


class PolicyReload:
    """Policies and identity in effect, and their replacement after a change of the file.

    Args:
        policy_file: The file as it was read first, or policies from code.
        builder: Builder of the identifiers.
        http_limiter: Limiter that they take effect in.
        route_reporter: Checks that the routes work with new policies.
    """

    def __init__(
        self,
        policy_file: PolicyFile,
        builder: IdentifierBuilder,
        http_limiter: HTTPLimiter,
        route_reporter: RouteReporter,
    ) -> None:
        self.policy_file = policy_file
        self.errors: tuple[str, ...] = ()
        self._builder = builder
        self._http_limiter = http_limiter
        self._limiter = http_limiter.limiter
        self._route_reporter = route_reporter

    def activate(self) -> None:
        """Activate the policies and the identity; before this, each request is an error."""
        self._limiter.active_policies.replace(self.policy_file.policy_set)
        self._http_limiter.identifier = self._builder.build(self.policy_file.identity)

    def watch(self, path: Path) -> PeriodicTask:
        """Return the task that watches the file."""
        watcher = PolicyWatcher(
            path,
            initial=self.policy_file,
            on_loaded=self.replace,
            on_rejected=self._reject,
            poll_s=_POLL_SECONDS,
        )
        # `run` returns only by an exception, after which the file is watched again.
        return PeriodicTask(
            watcher.run, _POLL_SECONDS, failure_event="background.failed", immediate=True
        )

    def _reject(self, errors: tuple[str, ...]) -> None:
        self.errors = errors
        self._limiter.emit(PoliciesRejected(errors))

    async def replace(self, policy_file: PolicyFile) -> None:
        """Activate another file.

        Raises:
            ConfigError: Requests to the routes would fail; the former file stays in effect.
        """
        self._route_reporter.require_named_policies(policy_file.policy_set)
        self._http_limiter.identifier = await self._build_identifier(policy_file.identity)
        self._http_limiter.reject_invalid = policy_file.identity.reject_invalid
        self._limiter.active_policies.replace(policy_file.policy_set)
        # In a thread: many routes and policies take some 100 ms to compare.
        await asyncio.to_thread(self._route_reporter.warn_of_unused, policy_file.policy_set)
        await self._route_reporter.report_changes()
        self.policy_file = policy_file
        self.errors = ()

    async def _build_identifier(self, section: IdentitySection) -> RequestIdentifier:
        builder = self._builder
        while True:
            resolver = builder.resolver
            # A file with many keys takes about a second to read, which must not block the event
            # loop. An app may meanwhile start and have its resolver adopted.
            identifier = await asyncio.to_thread(builder.build, section)
            if builder.resolver is resolver:
                return identifier

"""Factory behind the fixture `make_fleetlimit`."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from fleetlimit.bootstrap.fleetlimit import Fleetlimit
from fleetlimit.bootstrap.settings import Settings
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.identity import PrincipalResolver
from fleetlimit.limiter.observers import Observer
from fleetlimit.testing.clock import ManualClock

_FIXTURES: Final = {"store": "fleetlimit_store", "clock": "fleetlimit_clock"}


class FleetlimitFactory(Protocol):
    """Creates limiters on the test's clock."""

    def __call__(
        self,
        policies: str | Path | PolicySet | None = None,
        *,
        resolver: PrincipalResolver | None = None,
        observers: Sequence[Observer] = (),
        settings: Settings | None = None,
        **options: Any,
    ) -> Fleetlimit:
        """Return a limiter on the test's clock, with its own keys in the test's store.

        Args:
            policies: Policy file or policy set; by default no policies.
            resolver: Identifies callers, as in `Fleetlimit`.
            observers: Further observers of every event.
            settings: Settings of the app, such as `Settings(headers="x-ratelimit")`. Store, key
                prefix and timeouts are those of the test.
            options: Further arguments of `Fleetlimit`.

        Raises:
            ConfigError: An argument is invalid.
            TypeError: The store or the clock is given, which fixtures decide.
        """
        ...


def make_factory(clock: ManualClock, store: str) -> FleetlimitFactory:
    """Return a factory of limiters.

    Args:
        clock: Clock of the limiters.
        store: URL of their store.
    """

    def make(
        policies: str | Path | PolicySet | None = None,
        *,
        resolver: PrincipalResolver | None = None,
        observers: Sequence[Observer] = (),
        settings: Settings | None = None,
        **options: Any,
    ) -> Fleetlimit:
        for name, fixture in _FIXTURES.items():
            if name in options:
                raise TypeError(
                    f"make_fleetlimit has the {name} of the fixture {fixture}: override that "
                    f"fixture in place of {name}="
                )
        own = Settings(
            store=store,
            key_prefix=f"test-{secrets.token_hex(4)}",
            # A late reply on a busy machine must not trigger the fallback or the breaker.
            store_timeout=5,
            breaker_failures=1_000,
        )
        if settings is not None:
            names = ("store", "key_prefix", "store_timeout", "breaker_failures")
            own = settings.model_copy(update={name: getattr(own, name) for name in names})
        return Fleetlimit(
            policies=policies,
            settings=own,
            resolver=resolver,
            observers=observers,
            clock=clock,
            **options,
        )

    return make

"""`make_fleetlimit`: limiters of a test, with the arguments of the app's own."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from fleetlimit import CheckDecided, Event, PolicySet, Principal, RateLimit, Settings
from fleetlimit.testing import FleetlimitFactory, ManualClock


async def resolve_user(connection: HTTPConnection) -> Principal | None:
    """Return the caller that a header names."""
    name = connection.headers.get("X-User")
    return Principal(name) if name else None


class Recorder:
    """Observer that keeps the events of decisions."""

    def __init__(self) -> None:
        self.decided: list[CheckDecided] = []

    def on_event(self, event: Event) -> None:
        """Keep an event."""
        if isinstance(event, CheckDecided):
            self.decided.append(event)


def test_make_fleetlimit_takes_a_resolver_and_observers(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """Each caller of the resolver has a bucket of its own."""
    recorder = Recorder()
    app = FastAPI(lifespan=make_fleetlimit(resolver=resolve_user, observers=[recorder]))
    app.get("/", dependencies=[Depends(RateLimit("1/day"))])(lambda: None)
    with TestClient(app) as client:
        users = ["alice", "alice", "bob", None]
        codes = [
            client.get("/", headers={"X-User": user} if user else {}).status_code for user in users
        ]
    assert codes == [200, 429, 200, 200]
    assert len(recorder.decided) == 4


def test_settings_of_the_app_keep_the_store_of_the_test(
    make_fleetlimit: FleetlimitFactory,
) -> None:
    """Header formats and the like are the app's; store, prefix and timeouts are the test's."""
    settings = Settings(store="redis://prod:6379", headers="x-ratelimit", key_prefix="prod")
    fleetlimit = make_fleetlimit(PolicySet(), settings=settings)
    assert fleetlimit.settings.headers == "x-ratelimit"
    assert fleetlimit.settings.store == "memory://"
    assert fleetlimit.settings.key_prefix.startswith("test-")
    assert fleetlimit.settings.store_timeout == 5


@pytest.mark.parametrize(
    ("options", "fixture"),
    [
        ({"store": "redis://localhost"}, "fleetlimit_store"),
        ({"clock": ManualClock()}, "fleetlimit_clock"),
    ],
)
def test_store_and_clock_are_those_of_the_fixtures(
    make_fleetlimit: FleetlimitFactory, options: dict[str, Any], fixture: str
) -> None:
    """An argument that would replace a fixture is an error that names the fixture."""
    with pytest.raises(TypeError, match=f"override that fixture|{fixture}"):
        make_fleetlimit(**options)


def test_other_arguments_reach_fleetlimit(
    make_fleetlimit: FleetlimitFactory, tmp_path: Path
) -> None:
    """Further arguments are those of `Fleetlimit`, and an unknown one is its error."""
    (tmp_path / "policies.yaml").write_text("version: 1\npolicies: []\n")
    assert make_fleetlimit(tmp_path / "policies.yaml", tune_gc=True)._tune_gc
    with pytest.raises(TypeError, match="resolvers"):
        make_fleetlimit(resolvers=resolve_user)

"""Reload of policies and API keys in a running app; an invalid change is rejected."""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import Depends, FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from fleetlimit import ConfigError, Fleetlimit, PolicyLimit, RateLimit, RateLimitMiddleware
from support.eventually import PATIENCE_SECONDS
from support.policies import ConfigMapMount, write_atomically


def until(true: Callable[[], object]) -> None:
    """Wait for a condition in the thread of the app."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def policies(rate: str, *, name: str = "default", identity: str = "") -> str:
    return f"version: 1\n{identity}policies:\n  - {{name: {name}, limits: [{{rate: {rate}}}]}}\n"


def policies_line(name: str, route: str) -> str:
    """Return a further policy of one request a day on one route."""
    return f"  - {{name: {name}, match: {{routes: [{route}]}}, limits: [{{rate: 1/day}}]}}\n"


def keys(**principals: str) -> str:
    entries = [
        f"  - {{sha256: {hashlib.sha256(key.encode()).hexdigest()}, principal: {name}}}\n"
        for key, name in principals.items()
    ]
    return "keys:\n" + "".join(entries)


def unmatched(log: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in log.messages if "policy.unused" in line]


class Running:
    """App that runs with a policy file."""

    def __init__(self, file: Path) -> None:
        self.fleetlimit = Fleetlimit(policies=file)
        app = FastAPI(lifespan=self.fleetlimit)
        app.add_middleware(RateLimitMiddleware)
        app.add_api_route("/", lambda: None)
        self.app = app
        self.client = TestClient(app)

    def limit(self, **headers: str) -> str:
        """Return the policy and the limit in the headers of a response."""
        return self.client.get("/", headers=headers).headers["ratelimit-policy"]

    def status(self, **headers: str) -> int:
        """Send a request and return the status."""
        return self.client.get("/", headers=headers).status_code

    def denials(self) -> dict[tuple[str, ...], float]:
        """Return the denials by policy and route of callers without a tier."""
        found = self.fleetlimit.metrics.render()[0].decode()
        return {
            (sample.labels["policy"], sample.labels["route"]): sample.value
            for family in text_string_to_metric_families(found)
            for sample in family.samples
            if sample.name == "fleetlimit_denials_total" and sample.labels["tier"] == "none"
        }

    def reloads(self, result: str) -> float:
        """Return the number of applied or rejected reloads."""
        text = self.fleetlimit.metrics.render()[0].decode()
        start = f'fleetlimit_policy_reloads_total{{result="{result}"}} '
        return next(
            float(line[len(start) :]) for line in text.splitlines() if line.startswith(start)
        )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policies.yaml"
    write_atomically(path, policies("5/day"))
    return path


@pytest.fixture
def running(file: Path) -> Iterator[Running]:
    found = Running(file)
    with found.client:
        yield found


def test_valid_change_applies_to_the_next_request(running: Running, file: Path) -> None:
    """The next request has the new limits, and the reload is counted."""
    assert running.limit().startswith('"default";q=5')
    write_atomically(file, policies("7/day"))
    until(lambda: running.reloads("success") == 2)
    assert running.limit().startswith('"default";q=7')
    assert running.fleetlimit.limiter.active_policies.current.generation == 2


def test_denials_start_at_zero_when_policies_are_loaded(running: Running, file: Path) -> None:
    """The first denial of a route is an increase, at the start and after a reload."""
    assert running.denials()["default", "GET /"] == 0
    assert running.denials()["default", "(none)"] == 0
    write_atomically(file, policies("1/day", name="default") + policies_line("exports", "/"))
    until(lambda: running.denials().get(("exports", "GET /")) == 0)
    assert [running.status(), running.status()] == [200, 429]
    assert running.denials()["exports", "GET /"] == 1


def test_denials_of_an_added_route_start_at_zero(running: Running) -> None:
    """A route that the app adds while it runs has its series at the flush after its request."""

    def added() -> None: ...

    running.app.get("/added", dependencies=[Depends(RateLimit("9/day", name="nine"))])(added)
    assert running.client.get("/added").status_code == 200
    assert running.client.portal is not None
    running.client.portal.call(running.fleetlimit._background.flush)
    assert running.denials()["nine", "GET /added"] == 0
    assert running.denials()["default", "GET /added"] == 0


def test_added_route_without_its_policy_rejects_no_reload(running: Running, file: Path) -> None:
    """Only requests to the route fail. A change of the file takes effect, and the flush goes on."""

    def added() -> None: ...

    running.app.get("/added", dependencies=[Depends(PolicyLimit("missing"))])(added)
    with pytest.raises(ConfigError, match="missing"):
        running.client.get("/added")
    assert running.client.portal is not None
    running.client.portal.call(running.fleetlimit._background.flush)
    write_atomically(file, policies("7/day"))
    until(lambda: running.reloads("success") + running.reloads("failure") > 1)
    assert running.limit().startswith('"default";q=7')
    assert running.reloads("failure") == 0
    assert running.fleetlimit.rejected_policies == ()
    assert running.denials()["default", "GET /added"] == 0


def test_config_map_update_is_applied(tmp_path: Path) -> None:
    """A rename of the symlink `..data` in a ConfigMap's directory triggers a reload."""
    mount = ConfigMapMount(tmp_path)
    mount.write({"policies.yaml": policies("5/day")})
    running = Running(tmp_path / "policies.yaml")
    with running.client:
        mount.write({"policies.yaml": policies("7/day")})
        until(lambda: running.reloads("success") == 2)
        assert running.limit().startswith('"default";q=7')


def test_invalid_change_is_rejected(
    running: Running, file: Path, log: pytest.LogCaptureFixture
) -> None:
    """The last valid policies stay active; the error is counted and logged with its line."""
    write_atomically(file, policies("sometimes"))
    until(lambda: running.reloads("failure") == 1)
    assert running.limit().startswith('"default";q=5')
    rejected = [line for line in log.messages if "policies.rejected" in line]
    assert len(rejected) == 1
    assert f"{file}:3: " in rejected[0]
    write_atomically(file, policies("7/day"))
    until(lambda: running.reloads("success") == 2)
    assert running.limit().startswith('"default";q=7')


def test_added_api_key_is_accepted(tmp_path: Path) -> None:
    """A key added to the file of keys identifies its principal after the reload."""
    identity = "identity:\n  reject_invalid: true\n  api_keys: {file: keys.yaml}\n"
    write_atomically(tmp_path / "keys.yaml", keys(first="alice"))
    write_atomically(tmp_path / "policies.yaml", policies("5/day", identity=identity))
    running = Running(tmp_path / "policies.yaml")
    with running.client:
        first, second = {"X-API-Key": "first"}, {"X-API-Key": "second"}
        assert (running.status(**first), running.status(**second)) == (200, 401)
        write_atomically(tmp_path / "keys.yaml", keys(first="alice", second="bob"))
        until(lambda: running.reloads("success") == 2)
        assert (running.status(**first), running.status(**second)) == (200, 200)

        write_atomically(tmp_path / "keys.yaml", "keys: [{sha256: second, principal: bob}]\n")
        until(lambda: running.reloads("failure") == 1)
        assert (running.status(**first), running.status(**second)) == (200, 200)


def test_changed_limit_keeps_the_identity(running: Running, file: Path) -> None:
    """Only a changed identity section makes a new identifier, without the caches of the last."""
    before = running.fleetlimit.http_limiter.identifier
    write_atomically(file, policies("7/day"))
    until(lambda: running.reloads("success") == 2)
    assert running.fleetlimit.http_limiter.identifier is before
    write_atomically(file, policies("7/day", identity="identity: {ipv6_prefix: 48}\n"))
    until(lambda: running.reloads("success") == 3)
    assert running.fleetlimit.http_limiter.identifier is not before


def test_reload_without_a_required_policy_is_rejected(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """Requests to a route whose dependency names a missing policy would fail."""
    file = tmp_path / "policies.yaml"
    write_atomically(file, policies("5/day", name="orders"))
    fleetlimit = Fleetlimit(policies=file)
    app = FastAPI(lifespan=fleetlimit)
    app.add_api_route(
        "/orders",
        lambda: None,
        dependencies=[Depends(PolicyLimit("orders")), Depends(RateLimit("9/day"))],
    )
    with TestClient(app) as client:
        write_atomically(file, policies("5/day", name="carts"))
        until(lambda: "routes depend on orders: keep these policies" in log.text)
        assert client.get("/orders").status_code == 200
        write_atomically(file, policies("7/day", name="orders"))
        until(lambda: fleetlimit.limiter.active_policies.current.generation == 2)
        assert '"orders";q=7' in client.get("/orders").headers["ratelimit-policy"]


@pytest.mark.usefixtures("running")
def test_reload_of_a_policy_without_effect_is_warned_about(
    file: Path, log: pytest.LogCaptureFixture
) -> None:
    """A reloaded policy that matches no route is in the log, as at start."""
    match = "name: orders, match: {routes: [/orders]}"
    write_atomically(file, policies("5/day").replace("name: default", match))
    until(lambda: unmatched(log))
    assert "orders" in unmatched(log)[0]


def test_reload_with_the_name_of_a_limit_in_code_is_rejected(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """A policy of the file must not replace a different limit of its name."""
    file = tmp_path / "policies.yaml"
    write_atomically(file, policies("5/day"))
    app = FastAPI(lifespan=Fleetlimit(policies=file))
    app.add_api_route("/", lambda: None, dependencies=[Depends(RateLimit("9/day", name="io"))])
    with TestClient(app):
        write_atomically(file, policies("5/day", name="io"))
        until(lambda: "two different limits are named 'io'" in log.text)

"""Demonstrations in containers: ports, the syntax of the script, and what it prints and loads."""

import os
import re
import runpy
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support import demonstration
from support.eventually import PATIENCE_SECONDS
from support.tool import ROOT

SCRIPT: Final = ROOT / "deploy/kind/demo.sh"
SINCE_BASH_4: Final = r"declare -[AgnluN]|local -n|mapfile|readarray|&>>|\|&|coproc|\$\{\w+(\^|,|@)"
"""Syntax that bash 3.2, the version of macOS, does not have."""
# Stands in for docker, kind, kubectl and helm: logs the command, and has a running cluster. Docker
# has all images but Jaeger's and Grafana's; the registry has Jaeger's alone.
_TOOL: Final = """\
#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
[ "${0##*/}" != "${UNAVAILABLE-}" ] || exit 1
case "${0##*/} $*" in
  "kind get "*) echo fleetlimit-demo ;;
  "docker image inspect "*jaeger* | "docker "*" inspect grafana"*) exit 1 ;;
  "kind load docker-image quay.io/"*) exit 1 ;;
  "kubectl apply -f -") cat >>"$LOG" ;;
esac
"""


def run_demo(tmp_path: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with other tools in place, which log their commands into the file `log`."""
    for tool in ("docker", "kind", "kubectl", "helm"):
        file = tmp_path / tool
        file.write_text(_TOOL)
        file.chmod(0o755)
    return subprocess.run(
        [SCRIPT],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "LOG": str(tmp_path / "log"),
            "PROMETHEUS_IMAGE": "registry.example.com/prometheus:v4.5.6",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


@pytest.fixture
def demo(tmp_path: Path) -> tuple[list[str], list[str]]:
    """Run the script; return the lines it prints, and the commands."""
    run = run_demo(tmp_path)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines(), (tmp_path / "log").read_text().splitlines()


def test_demo_script_states_what_to_do_after_a_failure(tmp_path: Path) -> None:
    """Also when the cluster does not respond. The kubeconfig is removed."""
    run = run_demo(tmp_path, UNAVAILABLE="kubectl", TMPDIR=str(tmp_path))
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("The cluster is kept")
    assert list(tmp_path.glob("tmp.*")) == []


def test_host_ports_bind_to_loopback() -> None:
    """Other machines of the network cannot reach a demonstration."""
    compose: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    published = [
        each for service in compose["services"].values() for each in service.get("ports", ())
    ]
    assert published
    assert [each for each in published if not each.startswith("127.0.0.1:")] == []
    cluster = yaml.safe_load((ROOT / "deploy/kind/demo/cluster.yaml").read_text())
    mappings = [each for node in cluster["nodes"] for each in node.get("extraPortMappings", ())]
    assert {each["listenAddress"] for each in mappings} == {"127.0.0.1"}
    (ports,) = re.findall(r"^ports='(.*)'$", SCRIPT.read_text(), re.MULTILINE)
    assert ports.split() == [str(each["hostPort"]) for each in mappings]


def test_demo_script_runs_with_the_bash_of_macos() -> None:
    """The script has no syntax that bash 3.2 lacks."""
    assert not re.search(SINCE_BASH_4, SCRIPT.read_text())


def test_demo_script_states_its_plan_first_and_the_addresses_last(
    demo: tuple[list[str], list[str]],
) -> None:
    """The first line is printed before any other command, and every step has its number."""
    lines, _ = demo
    assert lines[0].startswith("Starts a kind cluster")
    steps = [re.findall(r"^\[(\d)/(\d), after \d+ s\] ", line) for line in lines]
    numbers = [found[0] for found in steps if found]
    assert numbers == [(str(number), "6") for number in range(1, 7)]
    for port in ("3000", "9090", "16686", "8000"):
        shown = any(f"http://127.0.0.1:{port}/" in line for line in lines[-14:])
        # Without its image, the script starts no Grafana.
        assert shown == (port != "3000")
    assert any(line.startswith("No Grafana:") for line in lines)


def test_demo_script_loads_only_images_that_docker_has(demo: tuple[list[str], list[str]]) -> None:
    """The nodes pull an image that Docker does not have, or that kind cannot copy."""
    lines, commands = demo
    loaded = [line.split()[3] for line in commands if line.startswith("kind load")]
    assert any(each.startswith("valkey/") for each in loaded)
    assert not any("jaeger" in each or "grafana/" in each for each in loaded)
    pulled = [line for line in lines if line.endswith("which the nodes pull")]
    assert {line.split("/")[0].strip() for line in pulled} == {"quay.io", "jaegertracing"}
    assert not any(line.startswith("docker pull") for line in commands)


def test_demo_script_replaces_images_and_versions(demo: tuple[list[str], list[str]]) -> None:
    """An image of the environment, and its version, stand in the applied manifests."""
    _, applied = demo
    text = "\n".join(applied)
    assert "image: registry.example.com/prometheus:v4.5.6" in text
    assert "version: v4.5.6" in text
    assert "image: quay.io/prometheus/prometheus:" not in text


class _Starting(BaseHTTPRequestHandler):
    """Rejects POST, as the API of a demonstration does. GET has the status of its path."""

    def do_POST(self) -> None:
        """Respond with 429."""
        self._send(429)

    def do_GET(self) -> None:
        """Respond with the status in the path, or as Prometheus does while it starts."""
        status = self.path.strip("/")
        self._send(int(status) if status.isdigit() else 503)

    def _send(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"Service Unavailable")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the library
        """Write nothing."""


@pytest.fixture
def starting() -> Iterator[str]:
    """Address of a server that is starting."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Starting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_check_of_a_demonstration_waits_for_a_server_that_is_starting(
    starting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of Prometheus, which is not JSON, does not end the check."""
    for name in ("API", "PROMETHEUS", "JAEGER"):
        monkeypatch.setattr(demonstration, name, starting)
    assert len(demonstration.missing(0.0)) == 1


@pytest.mark.parametrize("status", [200, 429, 502])
def test_guide_takes_a_rejection_for_a_response(starting: str, status: int) -> None:
    """The proxy responds with 502 while no replica is ready."""
    guide = runpy.run_path(str(ROOT / "deploy/compose/guide.py"))
    assert guide["responds"](f"{starting}/{status}") is (status < 500)

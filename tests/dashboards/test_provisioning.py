"""Grafana and Prometheus of compose and of deploy/observability load the committed files."""

import json
import re
import shutil
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleetlimit.telemetry import names
from support.boards import FOLDER, queries
from support.promtool import needs_promtool, promtool
from support.rules import FILE as RULES
from support.tool import ROOT, run

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
MANIFESTS = [
    document
    for file in sorted((DEPLOY / "observability").glob("*.yaml"))
    for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))
]
IMAGES = dict(
    re.findall(
        r"^(\w+)=(.+)$", (DEPLOY / "kind/images.env").read_text(encoding="utf-8"), re.MULTILINE
    )
)
OF_COMPOSE = DEPLOY / "compose/grafana"


def has_compose() -> bool:
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)  # noqa: S607 - the docker of the PATH is meant
    return done.returncode == 0


def of_compose(name: str) -> Any:
    return yaml.safe_load((OF_COMPOSE / name).read_text(encoding="utf-8"))


def of_cluster(name: str) -> Any:
    (provisioning,) = [
        each["data"]
        for each in MANIFESTS
        if (each.get("metadata") or {}).get("name") == "grafana-provisioning"
    ]
    return yaml.safe_load(provisioning[name])


def mounts() -> list[tuple[str, Path, str]]:
    """Return the mounts of all services: service, host path, container path."""
    found = [
        (name, mount.split(":")[:2])
        for name, service in SERVICES.items()
        for mount in service.get("volumes", ())
    ]
    return [(name, DEPLOY / here, there) for name, (here, there) in found]


def images_in(document: Any) -> list[str]:
    """Return the images of a manifest, also those in arguments."""
    return re.findall(r"(?<![/\w.-])[\w.-]+/[\w./-]+:v?\d[\w.-]*", json.dumps(document))


@pytest.mark.skipif(not has_compose(), reason="there is no docker compose")
def test_compose_file_is_valid() -> None:
    """`docker compose config` accepts the file."""
    run("docker", "compose", "-f", str(COMPOSE), "config", "--quiet")


def test_mounted_paths_exist() -> None:
    """Every path in the repository exists. Docker would create it as an empty directory."""
    found = [here for _, here, _ in mounts() if here.is_relative_to(DEPLOY)]
    assert found
    assert [str(here) for here in found if not here.exists()] == []


def test_scrape_targets_and_dependencies_are_services() -> None:
    """Prometheus scrapes, and services depend on, services of the compose file."""
    waited = {other for service in SERVICES.values() for other in service.get("depends_on", ())}
    (config,) = [here for name, here, there in mounts() if there.endswith("/prometheus.yaml")]
    scraped = set()
    for job in yaml.safe_load(config.read_text(encoding="utf-8"))["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            scraped |= set(found["names"])
        for given in job.get("static_configs", ()):
            scraped |= {target.partition(":")[0] for target in given["targets"]}
    assert scraped == {"fleetlimit", "exporter"}
    assert waited | scraped <= set(SERVICES)


def test_images_are_those_of_images_env() -> None:
    """Compose and the manifests run the images of images.env, apart from compose's proxy."""
    given = [re.fullmatch(r"\$\{(\w+):-(.+)\}", each["image"]) for each in SERVICES.values()]
    named = {found.group(1): found.group(2) for found in given if found}
    assert len([found for found in given if found]) == len(SERVICES)
    assert set(named) - set(IMAGES) == {"PROXY_IMAGE"}
    assert {name: image for name, image in named.items() if name in IMAGES} == {
        name: IMAGES[name] for name in named if name in IMAGES
    }
    running = {image for document in MANIFESTS for image in images_in(document)}
    assert running
    assert running <= set(IMAGES.values())


def test_compose_prints_only_the_guide() -> None:
    """`docker compose up` prints the log of the guide, which has the address of each port."""
    assert [name for name, each in SERVICES.items() if each.get("attach", True)] == ["guide"]
    guide = (DEPLOY / "compose/guide.py").read_text(encoding="utf-8")
    published = {port.split(":")[1] for each in SERVICES.values() for port in each.get("ports", ())}
    assert set(re.findall(r"http://localhost:(\d+)", guide)) == published


def test_compose_trusts_the_proxy_alone() -> None:
    """The proxy has the one trusted address, which Docker gives to no other container."""
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    (network,) = compose["networks"]["default"]["ipam"]["config"]
    fixed = {
        name: service["networks"]["default"]["ipv4_address"]
        for name, service in SERVICES.items()
        if "networks" in service
    }
    policies = yaml.safe_load((DEPLOY / "compose/policies/policies.yaml").read_text("utf-8"))
    (trusted,) = map(IPv4Network, policies["identity"]["trusted_proxies"])
    assert fixed.keys() == {"proxy"}
    assert [*trusted] == [IPv4Address(fixed["proxy"])]
    assert trusted.subnet_of(IPv4Network(network["subnet"]))
    assert not trusted.overlaps(IPv4Network(network["ip_range"]))
    assert IPv4Address(network["gateway"]) not in trusted


def test_compose_policies_are_valid(tmp_path: Path) -> None:
    """The policy file of compose and its key file are valid."""
    mounted = {there: here for name, here, there in mounts() if name == "fleetlimit"}
    policies = (mounted["/etc/fleetlimit/policies"] / "policies.yaml").read_text(encoding="utf-8")
    for there, here in mounted.items():
        policies = policies.replace(there, str(here))
    file = tmp_path / "policies.yaml"
    file.write_text(policies)
    run(sys.executable, "-m", "fleetlimit", "policies", "validate", str(file))


@pytest.mark.parametrize("provisioned", [of_compose, of_cluster])
def test_exemplars_link_to_jaeger(provisioned: Any) -> None:
    """The exemplar label is Fleetlimit's, and links to a provisioned Jaeger data source."""
    sources = {each["uid"]: each for each in provisioned("datasources.yaml")["datasources"]}
    (destination,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == names.TRACE_ID
    assert sources[destination["datasourceUid"]]["type"] == "jaeger"


def test_grafana_provisioning_is_equal() -> None:
    """Data sources and providers of compose and of the cluster differ only in their hosts."""
    within = json.dumps(of_cluster("datasources.yaml")).replace(".observability:", ":")
    assert json.loads(within) == of_compose("datasources.yaml")
    assert of_cluster("dashboards.yaml") == of_compose("dashboards.yaml")


@pytest.mark.parametrize("path", ["compose/config.alloy", "observability/loki.yaml"])
def test_log_lines_have_the_labels_of_the_dashboards(path: str) -> None:
    """Alloy sends log lines with the labels that the row of callers selects, to the Loki there."""
    config = (DEPLOY / path).read_text(encoding="utf-8")
    labels = set(re.findall(r'target_label\s*= "(\w+)"', config))
    assert labels == {"namespace", "pod"}
    (lines,) = {
        frozenset(re.findall(r"(\w+)=~", query.expression.partition("}")[0]))
        for query in queries("loki")
    }
    assert lines == labels
    (url,) = re.findall(r'url = "(.*?)/loki/api/v1/push"', config)
    sources = of_compose if path.startswith("compose") else of_cluster
    assert url in {each["url"] for each in sources("datasources.yaml")["datasources"]}


def test_dashboards_are_mounted_at_the_provider_path() -> None:
    """The dashboards are mounted at the path of Grafana's provider."""
    (provider,) = of_compose("dashboards.yaml")["providers"]
    path = provider["options"]["path"]
    assert [here.resolve() for _, here, there in mounts() if there == path] == [FOLDER]
    (grafana,) = [
        each
        for each in MANIFESTS
        if each.get("kind") == "Deployment" and each["metadata"]["name"] == "grafana"
    ]
    pod = grafana["spec"]["template"]["spec"]
    assert path in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}


def test_sidecar_label_is_the_charts() -> None:
    """The sidecar of kube-prometheus-stack selects the label of the chart's ConfigMap."""
    (stack,) = [each for each in MANIFESTS if "prometheus" in each and "grafana" in each]
    sidecar = stack["grafana"]["sidecar"]
    wanted = {sidecar["dashboards"]["label"]: sidecar["dashboards"]["labelValue"]}
    chart = yaml.safe_load((ROOT / "charts/fleetlimit/values.yaml").read_text())
    assert wanted == chart["dashboards"]["labels"]
    exemplars = sidecar["datasources"]["exemplarTraceIdDestinations"]
    assert exemplars["traceIdLabelName"] == names.TRACE_ID
    assert exemplars["datasourceUid"] in {
        source["uid"] for source in stack["grafana"]["additionalDataSources"]
    }


@needs_promtool
def test_prometheus_config_is_valid(tmp_path: Path) -> None:
    """Promtool accepts compose's configuration, and finds the rules at the mounted path."""
    there = {there: here for name, here, there in mounts() if name == "prometheus"}
    config = there["/etc/prometheus/prometheus.yaml"].read_text(encoding="utf-8")
    assert there["/etc/prometheus/rules.yaml"].resolve() == RULES
    shutil.copy(RULES, tmp_path)
    here = config.replace("/etc/prometheus/", f"{tmp_path}/")
    (tmp_path / "prometheus.yaml").write_text(here)
    assert "1 rule files found" in promtool("check", "config", tmp_path / "prometheus.yaml")

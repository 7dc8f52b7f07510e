"""Experiment 9: the API server accepts the rendered chart, under Pod Security `restricted`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import e2e_cluster as kind
from support.e2e_cluster import Cluster
from support.e2e_release import CHART, Release
from support.tool import ROOT

_COMBINATIONS = (
    *sorted((CHART / "ci").glob("*.yaml")),
    ROOT / "deploy/values/production.yaml",
    ROOT / "deploy/examples/orders/values.yaml",
)
_CRDS = {
    "PROMETHEUS_OPERATOR_CRDS": "monitoring.coreos.com",
    "GATEWAY_API_CRDS": "gateway.networking.k8s.io",
    "GRAFANA_OPERATOR_CRDS": "grafana.integreatly.org",
}


@pytest.fixture(scope="module")
def target(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """Release that is only rendered, on a cluster with all CRDs."""
    for source in filter(None, _sources().values()):
        cluster.install_crds(source)
    found = Release(cluster, "rendered", tmp_path_factory.mktemp("rendered"))
    found.create_namespace()
    try:
        # The server rejects a pod that violates it, and only warns about a pod template.
        found.restrict()
        yield found
    finally:
        found.uninstall()
        found.wait_until_deleted()


@pytest.mark.experiment(number=9)
@pytest.mark.parametrize(
    "file", [pytest.param(each, id=f"{each.parent.name}-{each.stem}") for each in _COMBINATIONS]
)
def test_api_server_accepts_the_rendered_chart(target: Release, file: Path) -> None:
    """The API server accepts all objects of a combination without a warning."""
    _submit(target, f"--values={file}")


@pytest.mark.experiment(number=9)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("hostAliases[0].ip=store", "hostAliases.*ip: Invalid value"),
        ("podSecurityContext.runAsNonRoot=false", "violate PodSecurity"),
        ("serviceMonitor.relabelings[0].action=explode", "action: Unsupported value"),
        ("httpRoute.timeouts.request=soon", "timeouts.request in body should match"),
    ],
)
def test_api_server_rejects_invalid_values(target: Release, value: str, error: str) -> None:
    """The test detects errors in built-in kinds, in CRDs, and of Pod Security."""
    gateway = CHART / "ci/gateway-values.yaml"
    with pytest.raises(AssertionError, match=error):
        _submit(target, f"--values={gateway}", f"--set={value}")


def _submit(target: Release, *values: str) -> None:
    """Validate the rendered objects on the API server. A warning is an error."""
    # The server rejects the pod of `helm test`, whose ServiceAccount does not exist.
    account = _render(target, "--show-only=templates/serviceaccount.yaml", *values)
    target.kubectl("apply", "--server-side", "--filename=-", stdin=account)
    objects = _render(target, *values)
    for name, group in _CRDS.items():
        if not _sources()[name] and f"apiVersion: {group}/" in objects:
            pytest.skip(f"{name} is empty")
    dry_run = ("apply", "--server-side", "--dry-run=server", "--warnings-as-errors")
    target.kubectl(*dry_run, "--filename=-", stdin=objects)


def _sources() -> dict[str, str]:
    return {name: kind.images()[name] for name in _CRDS}


def _render(target: Release, *options: str) -> str:
    return target.helm("template", str(CHART), *options)

"""Tests of the chart as a whole: Helm's own checks, and the consistency of its files."""

import json
import re
import shutil
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleetlimit.server.settings import ServerSettings
from fleetlimit.version import __version__
from fleetlimit.web.header_layout import FIELDS
from fleetlimit.web.ratelimit_headers import HeaderFormat
from support.boards import selectors
from support.helm import HELM, HELM3, has_plugin, helm, needs_helm, needs_helm3, with_each_helm
from support.promtool import needs_promtool, promtool
from support.tool import ROOT, run

CHART = ROOT / "charts/fleetlimit"
TEMPLATES = sorted(
    path for path in (CHART / "templates").rglob("*.*") if not path.name.startswith("_")
)
VALUE_SETS = sorted((CHART / "ci").glob("*.yaml"))
DEPLOYED = [
    ROOT / "deploy" / name
    for name in (
        "values/production.yaml",
        "examples/orders/values.yaml",
        "observability/fleetlimit.yaml",
        "kind/demo/values.yaml",
    )
]

# Values that have a default and may be null: nothing or the default of Kubernetes replaces it. Null
# for another value with a default would render an invalid object.
NULLABLE = {
    "autoscaling.behavior",
    "autoscaling.targetCPUUtilizationPercentage",
    "dashboards.labels",
    "enabled",
    "externalRedis.tls.existingSecret.caKey",
    "grafanaDashboards.folder",
    "podSecurityContext",
    "policies.inline",
    "prometheusRule.severities.critical",
    "prometheusRule.severities.info",
    "prometheusRule.severities.warning",
    "resources",
    "securityContext",
    "tmp.sizeLimit",
    "updateStrategy.rollingUpdate",
    "valkey.exporter.image.tag",
    "valkey.exporter.resources",
    "valkey.image.tag",
    "valkey.podSecurityContext",
    "valkey.resources",
    *(
        f"probes.{probe}.{field}"
        for probe in ("startup", "readiness", "liveness")
        for field in ("periodSeconds", "timeoutSeconds", "failureThreshold")
    ),
}

# Row of the README's table of values: key, type, default, description.
ROW = re.compile(r"^\| (\S+) \| ([^|]+) \| (.*) \| (.*) \|$", re.MULTILINE)
# A generated password or key in a Secret, 32 letters and digits in base64.
GENERATED = re.compile(r'"[A-Za-z0-9+/]{43}="')


def documented() -> dict[str, str]:
    """Return the descriptions in the README's table, by the path of the value."""
    _, _, table = (CHART / "README.md").read_text().partition("|-----|")
    return {path: description for path, _, _, description in ROW.findall(table)}


def chart_file(name: str) -> Any:
    return yaml.safe_load((CHART / name).read_text())


def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


def name_of(path: Path) -> str:
    return "-".join(path.relative_to(ROOT).with_suffix("").parts[1:])


@with_each_helm
@pytest.mark.parametrize("file", [*VALUE_SETS, *DEPLOYED], ids=name_of)
def test_values_pass_helm_lint(file: Path, binary: str) -> None:
    """`helm lint --strict` passes for every set of values."""
    helm("lint", "--strict", CHART, "--values", file, binary=binary)


@needs_helm
@needs_helm3
@pytest.mark.parametrize("file", [*VALUE_SETS, *DEPLOYED], ids=name_of)
def test_helm_3_renders_the_same(file: Path) -> None:
    """Helm 3 and Helm 4 render the same objects and hooks, in the same order."""
    assert helm("version", "--short", binary=HELM3).startswith("v3.")
    three, four = (
        GENERATED.sub('"generated"', helm("template", "fl", CHART, "-f", file, binary=binary))
        for binary in (HELM3, HELM)
    )
    assert list(yaml.safe_load_all(three)) == list(yaml.safe_load_all(four))


@with_each_helm
def test_helm_unittest_suites_pass(binary: str) -> None:
    """`helm unittest --strict` passes."""
    if not has_plugin("unittest", binary):
        pytest.skip("the plugin unittest of helm is not installed")
    helm("unittest", "--strict", CHART, binary=binary)


@needs_helm
def test_template_renders_one_object() -> None:
    """Each template renders at most one object, except the templates of lists."""
    for file in VALUE_SETS:
        rendered = helm("template", "fl", CHART, "--values", file)
        sources = Counter(re.findall(r"^# Source: (\S+)$", rendered, re.MULTILINE))
        for name in ("extraobjects", "grafanadashboards"):
            sources.pop(f"fleetlimit/templates/{name}.yaml", None)
        assert set(sources.values()) == {1}, file


@needs_helm
def test_pod_template_does_not_depend_on_replica_count() -> None:
    """A change of `replicaCount` replaces no pod."""
    shown = ("--show-only", "templates/deployment.yaml")
    few, many = (
        yaml.safe_load(helm("template", "fl", CHART, *shown, "--set", f"replicaCount={count}"))
        for count in (2, 6)
    )
    assert few["spec"]["replicas"] != many["spec"]["replicas"]
    assert few["spec"]["template"] == many["spec"]["template"]


@needs_helm
@needs_promtool
@pytest.mark.parametrize(
    ("values", "job"),
    [("observability", "fl-fleetlimit-admin"), ("ingress", "limits/fl-fleetlimit")],
)
def test_rules_select_one_release(values: str, job: str, tmp_path: Path) -> None:
    """Promtool accepts the rules of the chart, and each selector is restricted to the release."""
    file = CHART / f"ci/{values}-values.yaml"
    shown = ("--show-only", "templates/prometheusrule.yaml")
    rendered = yaml.safe_load(helm("template", "fl", CHART, "-n", "limits", "-f", file, *shown))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered["spec"]))
    promtool("check", "rules", tmp_path / "rules.yaml")
    of_release = {"namespace": ("=", "limits"), "job": ("=", job)}
    for group in rendered["spec"]["groups"]:
        for rule in group["rules"]:
            found = selectors(rule["expr"])
            assert found
            assert all(of_release.items() <= matchers.items() for _, matchers in found), rule


@with_each_helm
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_condition_of_a_parent_chart(tmp_path: Path, enabled: str, binary: str) -> None:
    """A parent chart enables this chart by a condition, and shares `global` with its charts."""
    write_parent_chart(tmp_path, {"condition": "fleetlimit.enabled"})
    shared = {"imageRegistry": "registry.example.com", "of": {"another": "chart"}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"global": shared}))
    options = ("--set", f"fleetlimit.enabled={enabled}")
    rendered = helm("template", "fl", tmp_path, *options, binary=binary)
    assert ("kind: Deployment" in rendered) is (enabled == "true")
    assert ("registry.example.com/fleetlimit/fleetlimit:" in rendered) is (enabled == "true")


@with_each_helm
def test_parent_chart_of_the_readme(tmp_path: Path, binary: str) -> None:
    """The values of the README's parent chart are accepted, and reach the pods."""
    text = (CHART / "README.md").read_text()
    _, _, section = text.partition("## In a parent chart\n")
    chart, values = re.findall(r"```yaml\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    (dependency,) = yaml.safe_load(chart)["dependencies"]
    assert dependency["version"] == chart_file("Chart.yaml")["version"]
    write_parent_chart(tmp_path, {"condition": dependency["condition"]})
    (tmp_path / "values.yaml").write_text(values)
    rendered = helm("template", "fl", tmp_path, binary=binary)
    assert 'image: "registry.example.com/orders:1.4.2"' in rendered
    assert '{name: TARGET, value: "/orders"}' in rendered


@with_each_helm
def test_aliases_of_a_parent_chart(tmp_path: Path, binary: str) -> None:
    """Two aliases have different objects, although the name of the release contains both."""
    write_parent_chart(tmp_path, {"alias": "shop"}, {"alias": "Orders_API"}, {})
    name = "shop-fleetlimit-orders"
    rendered = list(yaml.safe_load_all(helm("template", name, tmp_path, binary=binary)))
    names = [(each["kind"], each["metadata"]["name"]) for each in rendered]
    assert len(set(names)) == len(names)
    services = [name for kind, name in names if kind == "Service"]
    assert {"shop-fleetlimit-orders", "shop-fleetlimit-orders-shop"} < set(services)
    assert all(re.fullmatch("[a-z][-a-z0-9]{,62}", name) for name in services)


def write_parent_chart(directory: Path, *dependencies: dict[str, str]) -> None:
    """Write a chart with this chart as each of the dependencies."""
    common = {"name": "fleetlimit", "version": chart_file("Chart.yaml")["version"]}
    parent = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    listed = {"dependencies": [common | each for each in dependencies]}
    (directory / "Chart.yaml").write_text(yaml.safe_dump({**parent, **listed}))
    shutil.copytree(CHART, directory / "charts/fleetlimit")


@with_each_helm
def test_unknown_value_is_rejected(binary: str) -> None:
    """A misspelt value fails the installation, at every depth."""
    for name in ("replicas", "image.name", "valkey.persistence.storage", "externalRedis.tls.ca"):
        with pytest.raises(AssertionError, match=r"[Aa]dditional propert"):
            helm("template", "fl", CHART, "--set", f"{name}=1", binary=binary)


def test_each_template_has_a_suite() -> None:
    """Each template has a suite of helm-unittest."""
    suites = {path.name.removesuffix("_test.yaml") for path in (CHART / "tests").glob("*.yaml")}
    assert suites == {path.stem.lower() for path in TEMPLATES}


def test_each_requirement_has_a_test() -> None:
    """A test expects every message of templates/requirements.yaml."""
    template = (CHART / "templates/requirements.yaml").read_text()
    messages = re.findall(r'fail \(?(?:printf )?"([^"]+)"', template)
    expected = [
        found.get("errorMessage") or found["errorPattern"].removeprefix("^")
        for test in chart_file("tests/requirements_test.yaml")["tests"]
        if (found := test["asserts"][0].get("failedTemplate"))
    ]
    for message in messages:
        pattern = re.sub(r"%[sdq]", ".*", re.escape(message).replace(r"\%", "%"))
        assert any(re.match(pattern, each) for each in expected), message


def test_template_names_have_the_charts_prefix() -> None:
    """Named templates are global in Helm, so each has the prefix of the chart."""
    helpers = [path.read_text() for path in (CHART / "templates").glob("_*.tpl")]
    names = re.findall(r'define "([^"]+)"', "\n".join(helpers))
    assert names
    assert all(name.startswith("fleetlimit.") for name in names)


def test_every_value_is_documented() -> None:
    """The README's table has each value of values.yaml and no other, with a description."""
    described = documented()
    known = {path for path, _ in nodes(chart_file("values.yaml"))}
    assert [path for path in described if path not in known] == []
    assert [path for path, text in described.items() if not text] == []
    values = [path for path, below in nodes(chart_file("values.yaml")) if not below]
    assert [leaf for leaf in values if not any(within(leaf, path) for path in described)] == []


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the path of each value below a node, and whether it has values below it."""
    for name, below in node.items():
        has_more = isinstance(below, dict) and bool(below)
        yield f"{path}{name}", has_more
        if has_more:
            yield from nodes(below, f"{path}{name}.")


def test_values_and_schema_list_the_same_values() -> None:
    """values.yaml and values.schema.json contain the same paths."""
    described = documented()
    known = set(leaves(schema(), ""))
    assert [path for path in described if not any(within(leaf, path) for leaf in known)] == []
    assert [leaf for leaf in known if not any(within(leaf, path) for path in described)] == []


def leaves(node: Any, path: str) -> Iterator[str]:
    """Yield the paths of the schema's nodes that have no properties."""
    node = resolved(node)
    if "properties" not in node:
        yield path
    for name, below in node.get("properties", {}).items():
        yield from leaves(below, f"{path}.{name}".lstrip("."))


def resolved(node: Any) -> Any:
    """Return a node of the schema, or the definition that it refers to."""
    return schema()["$defs"][node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node


def within(leaf: str, path: str) -> bool:
    return f"{leaf}.".startswith(f"{path}.")


def test_schema_requires_values_that_may_not_be_null() -> None:
    """Helm removes a value that is set to null. The schema names the missing value."""
    needed = {
        path
        for path, _, default in properties(schema(), chart_file("values.yaml"))
        if default and not any(within(path, nullable) for nullable in NULLABLE)
    }
    assert {path for path, is_required, _ in properties(schema(), {}) if is_required} == needed


def properties(node: Any, defaults: Any, path: str = "") -> Iterator[tuple[str, bool, Any]]:
    """Yield the path of each value, whether the schema requires it, and its default."""
    node = resolved(node)
    for name, below in node.get("properties", {}).items():
        default = defaults.get(name) if isinstance(defaults, dict) else None
        yield f"{path}{name}", name in node.get("required", ()), default
        yield from properties(below, default, f"{path}{name}.")


@needs_helm
@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor"])
def test_other_values_may_be_null(monitor: str, tmp_path: Path) -> None:
    """Null instead of an empty or nullable value renders no null, with everything enabled."""
    given: Any = {
        "autoscaling": {"enabled": True, "metrics": [{"type": "Resource"}]},
        "dashboards": {"enabled": True},
        "grafanaDashboards": {"enabled": True},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "gateway"}]},
        "ingress": {
            "enabled": True,
            "hosts": [{"host": "a.example.com", "paths": [{"path": "/"}]}],
        },
        "networkPolicy": {"enabled": True},
        "policies": {"inline": "policies: []"},
        "prometheusRule": {"enabled": True, "info": True},
        "valkey": {
            "exporter": {"enabled": True, "image": {"tag": "1"}},
            "image": {"tag": "8"},
            "persistence": {"enabled": True},
        },
        monitor: {"enabled": True},
    }
    removed = nulls_for(schema(), chart_file("values.yaml"))
    files = [tmp_path / "null.yaml", tmp_path / "given.yaml"]
    for file, values in zip(files, [removed, given], strict=True):
        file.write_text(yaml.safe_dump(values))
    rendered = helm("template", "fl", CHART, *(f"--values={file}" for file in files))
    nulls = [
        (found["kind"], found["metadata"]["name"], path)
        for found in yaml.safe_load_all(rendered)
        for path in nulls_in(found)
    ]
    assert nulls == []


def nulls_for(node: Any, defaults: Any) -> dict[str, Any]:
    """Return null for each value of values.yaml that the schema does not require."""
    required = {name: resolved(node["properties"][name]) for name in node.get("required", ())}
    return {name: None for name in defaults if name not in required} | {
        name: nulls_for(below, defaults[name])
        for name, below in required.items()
        if "properties" in below
    }


def nulls_in(node: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of nulls."""
    if node is None:
        yield path
    items = enumerate(node) if isinstance(node, list) else ()
    for name, below in node.items() if isinstance(node, dict) else items:
        yield from nulls_in(below, f"{path}.{name}")


def test_every_object_of_the_schema_is_closed() -> None:
    """Objects accept no unknown property, except Kubernetes' own and what a parent chart shares."""
    definitions = schema()["$defs"]
    opened = {name for name, node in definitions.items() if is_open(node)}
    assert opened == {"kubernetesObject", "shared"}
    assert not any(is_open(node) for node in objects_in(schema()["properties"]))


def is_open(node: Any) -> bool:
    return node.get("type") == "object" and node.get("additionalProperties", True) is True


def objects_in(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield node
        for below in node.values():
            yield from objects_in(below)


SETTINGS = {
    "autoscaling.minReplicas": "min_replicas",
    "server.keepAliveSeconds": "keep_alive",
    "server.maxConnections": "max_connections",
    "settings.auditCallers": "audit_callers",
    "settings.breakerFailures": "breaker_failures",
    "settings.breakerProbeSeconds": "breaker_probe",
    "settings.headers": "headers",
    "settings.logFormat": "log_format",
    "settings.logLevel": "log_level",
    "settings.storeConnectTimeoutSeconds": "store_connect_timeout",
    "settings.storeTimeoutSeconds": "store_timeout",
    "shutdownSeconds": "shutdown_seconds",
}


@pytest.mark.parametrize("path", SETTINGS)
def test_schema_accepts_what_the_pods_accept(path: str) -> None:
    """The bounds of a value are those of the setting: pods do not start with an invalid one."""
    value = schema()
    for name in path.split("."):
        value = resolved(value["properties"][name])
    whole = ServerSettings.model_json_schema()
    setting = whole["properties"][SETTINGS[path]]
    setting |= whole["$defs"][setting["$ref"].removeprefix("#/$defs/")] if "$ref" in setting else {}
    assert most(value) <= most(setting)
    assert set(value.get("enum", ())) == set(setting.get("enum", ()))


HEADER_FIELDS = [f"{field}=X-Name" for field in FIELDS]


@pytest.mark.parametrize(
    "headers",
    [*HeaderFormat, *HEADER_FIELDS, ",".join(HEADER_FIELDS), "draft-11, github , limit = X-{unit}"],
)
def test_schema_accepts_every_header_format(headers: str) -> None:
    """The value `settings.headers` may be any format and field that the pods accept."""
    pattern = resolved(schema()["properties"]["settings"])["properties"]["headers"]["pattern"]
    assert re.fullmatch(pattern, headers)


@pytest.mark.parametrize("headers", ["", "drafts", "limits=X", "github,none", "limit=", "github,"])
def test_schema_rejects_unknown_header_formats(headers: str) -> None:
    """A wrong format is rejected before anything is installed."""
    pattern = resolved(schema()["properties"]["settings"])["properties"]["headers"]["pattern"]
    assert not re.fullmatch(pattern, headers)


def most(node: Any) -> float:
    return float(node.get("maximum", "inf"))


@pytest.mark.skipif(shutil.which("helm-docs") is None, reason="helm-docs is not on the PATH")
def test_readme_is_current() -> None:
    """`make chart-docs` changes nothing."""
    options = ("--chart-search-root", "charts", "--sort-values-order", "file")
    written = run("helm-docs", "--dry-run", *options)
    assert written == (CHART / "README.md").read_text(), "run: make chart-docs"


def test_artifact_hub_metadata_is_complete() -> None:
    """Chart.yaml has the fields and annotations that Artifact Hub shows, and its URLs have files.

    Source: https://artifacthub.io/docs/topics/annotations/helm
    """
    chart = chart_file("Chart.yaml")
    annotations = {
        name.removeprefix("artifacthub.io/"): yaml.safe_load(text)
        for name, text in chart["annotations"].items()
    }
    categories = {"monitoring-logging", "networking", "security", "skip-prediction"}
    assert annotations["category"] in categories
    assert annotations["license"] == pyproject()["project"]["license"]
    links = {link["name"]: link["url"] for link in annotations["links"]}
    # Artifact Hub shows the link of this name as the one for reports.
    assert links["support"] == pyproject()["project"]["urls"]["Issues"]
    assert chart["home"] == pyproject()["project"]["urls"]["Homepage"] == chart["sources"][0]
    in_repository = re.compile(
        r"https://(?:github|raw\.githubusercontent)\.com/fleetlimit/fleetlimit/(?:(?:blob|tree)/)?main/(.*)"
    )
    urls = [chart["icon"], *chart["sources"], *links.values()]
    files = [found[1] for url in urls if (found := in_repository.fullmatch(url))]
    assert "charts/fleetlimit/icon.svg" in files
    assert [file for file in files if not (ROOT / file).exists()] == []
    kinds = {"added", "changed", "deprecated", "removed", "fixed", "security"}
    assert {change["kind"] for change in annotations["changes"]} <= kinds


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_versions_and_images_agree() -> None:
    """The package, the image, the chart and the manifests have one version."""
    chart, defaults = chart_file("Chart.yaml"), chart_file("values.yaml")
    assert chart["appVersion"] == __version__
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    fleetlimit = f"{defaults['image']['repository']}:{__version__}"
    valkey, exporter = (
        f"{image['repository']}:{image['tag']}"
        for image in (defaults["valkey"]["image"], defaults["valkey"]["exporter"]["image"])
    )
    listed = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    assert [each["image"] for each in listed] == [fleetlimit, valkey, exporter]
    images = (ROOT / "deploy/kind/images.env").read_text()
    assert f"FLEETLIMIT_IMAGE={fleetlimit}\n" in images
    assert f"VALKEY_IMAGE={valkey}\n" in images
    assert f"REDIS_EXPORTER_IMAGE={exporter}\n" in images
    assert f"image: {fleetlimit}\n" in (ROOT / "deploy/kind/demo/load.yaml").read_text()

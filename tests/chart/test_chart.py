"""Tests of the chart as a whole: Helm's own checks, and the consistency of its files."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart.values_reference import CHART, Value, table, values, with_table
from fleetlimit.version import __version__
from support.boards import selectors
from support.promtool import needs_promtool, promtool
from support.tool import run

ROOT = CHART.parents[1]
TEMPLATES = sorted(
    path for path in (CHART / "templates").rglob("*.*") if not path.name.startswith("_")
)
VALUE_SETS = sorted((CHART / "ci").glob("*.yaml"))
DEPLOYED = [ROOT / "deploy/values/production.yaml", ROOT / "deploy/examples/orders/values.yaml"]

needs_helm = pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not on the PATH")


def helm(*arguments: str | Path) -> str:
    """Run Helm and return its output. A failure of Helm fails the test."""
    return run("helm", *map(str, arguments))


def has_unittest() -> bool:
    return shutil.which("helm") is not None and "unittest" in helm("plugin", "list")


def chart_file(name: str) -> Any:
    return yaml.safe_load((CHART / name).read_text())


def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


def name_of(path: Path) -> str:
    return path.stem


@needs_helm
@pytest.mark.parametrize("file", [*VALUE_SETS, *DEPLOYED], ids=name_of)
def test_values_pass_helm_lint(file: Path) -> None:
    """`helm lint --strict` passes for every set of values."""
    helm("lint", "--strict", CHART, "--values", file)


@pytest.mark.skipif(not has_unittest(), reason="helm with the plugin unittest is not on the PATH")
def test_helm_unittest_suites_pass() -> None:
    """`helm unittest --strict` passes."""
    helm("unittest", "--strict", CHART)


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


@needs_helm
@pytest.mark.parametrize("enabled", ["true", "false"])
def test_condition_of_a_parent_chart(tmp_path: Path, enabled: str) -> None:
    """A parent chart enables this chart by a condition, and shares `global` with its charts."""
    dependency = {"name": "fleetlimit", "version": chart_file("Chart.yaml")["version"]}
    dependency |= {"condition": "fleetlimit.enabled"}
    parent = {"apiVersion": "v2", "name": "parent", "version": "1.0.0"}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent | {"dependencies": [dependency]}))
    shared = {"imageRegistry": "registry.example.com", "of": {"another": "chart"}}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"global": shared}))
    shutil.copytree(CHART, tmp_path / "charts/fleetlimit")
    rendered = helm("template", "fl", tmp_path, "--set", f"fleetlimit.enabled={enabled}")
    assert ("kind: Deployment" in rendered) is (enabled == "true")
    assert ("registry.example.com/fleetlimit/fleetlimit:" in rendered) is (enabled == "true")


@needs_helm
def test_unknown_value_is_rejected() -> None:
    """A misspelt value fails the installation, at every depth."""
    for name in ("replicas", "image.name", "valkey.persistence.storage", "externalRedis.tls.ca"):
        with pytest.raises(AssertionError, match="additional properties"):
            helm("template", "fl", CHART, "--set", f"{name}=1")


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
        for test in chart_file("tests/requirements_test.yaml")["tests"][1:]
        for found in [test["asserts"][0]["failedTemplate"]]
    ]
    for message in messages:
        pattern = re.sub(r"%[sd]", ".*", re.escape(message).replace(r"\%", "%"))
        assert any(re.match(pattern, each) for each in expected), message


def test_template_names_have_the_charts_prefix() -> None:
    """Named templates are global in Helm, so each has the prefix of the chart."""
    helpers = [path.read_text() for path in (CHART / "templates").glob("_*.tpl")]
    names = re.findall(r'define "([^"]+)"', "\n".join(helpers))
    assert names
    assert all(name.startswith("fleetlimit.") for name in names)


def test_every_value_is_documented() -> None:
    """Every value of values.yaml has a description."""
    undocumented = [
        value.path for value in values((CHART / "values.yaml").read_text()) if not value.description
    ]
    assert undocumented == []


def test_values_and_schema_list_the_same_values() -> None:
    """values.yaml and values.schema.json contain the same paths."""
    documented = {value.path for value in values((CHART / "values.yaml").read_text())}
    known = set(leaves(schema(), ""))
    assert [path for path in documented if not any(within(leaf, path) for leaf in known)] == []
    assert [leaf for leaf in known if not any(within(leaf, path) for path in documented)] == []


def leaves(node: Any, path: str) -> Iterator[str]:
    """Yield the paths of the schema's nodes that have no properties."""
    if "$ref" in node:
        node = schema()["$defs"][node["$ref"].removeprefix("#/$defs/")]
    if "properties" not in node:
        yield path
    for name, below in node.get("properties", {}).items():
        yield from leaves(below, f"{path}.{name}".lstrip("."))


def within(leaf: str, path: str) -> bool:
    return f"{leaf}.".startswith(f"{path}.")


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


def test_readme_table_matches_values() -> None:
    """The README's table is generated from values.yaml by tests/chart/values_reference.py."""
    readme = (CHART / "README.md").read_text()
    assert readme == with_table(readme, (CHART / "values.yaml").read_text())


def test_description_joins_comment_lines() -> None:
    """Comments of several lines are joined; a value without a comment is still listed."""
    text = "a:\n  # -- One,\n  # two.\n  b: {c: 1}\n  d: x | y\n"
    assert list(values(text)) == [
        Value("a.b", '{"c": 1}', "One, two."),
        Value("a.d", '"x | y"', ""),
    ]
    assert '| `a.b` | `{"c": 1}` | One, two. |\n' in table(text)
    assert '`"x \\| y"`' in table(text)


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

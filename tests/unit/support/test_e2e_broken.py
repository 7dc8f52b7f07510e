"""Broken limiters of the kind suite, and the experiments that must notice them."""

import ast
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

pytest.importorskip("kr8s", reason="the kind suite needs the extra e2e")

from fleetlimit.core.quota import Algorithm, rate_quota
from fleetlimit.stores.embedded import EmbeddedValkey
from fleetlimit.stores.redis import scripts
from support import e2e_broken
from support.e2e_broken import BROKEN, WITH_STORE
from support.e2e_cluster import images
from support.e2e_setup import POLICIES, QUOTAS
from support.e2e_setup import values as installed
from support.tool import ROOT

SUITE = ROOT / "tests/e2e"
GIVEN = (installed("fleetlimit:1", "valkey:1"), {"replicaCount": 2})


def merged(values: Any) -> dict[str, Any]:
    """Return the top-level values as Helm reads several files, without its merge of mappings."""
    return {key: value for each in values for key, value in each.items()}


def test_limits_of_the_policies_are_those_that_the_suite_measures() -> None:
    """The text of the policies and the quotas of the figures do not drift apart."""
    for policy in yaml.safe_load(POLICIES)["policies"]:
        [limit] = policy["limits"]
        rate, options = limit.pop("rate"), limit
        if "algorithm" in options:
            options["algorithm"] = Algorithm(options["algorithm"])
        assert QUOTAS[policy["name"]] == rate_quota(rate, **options)


def test_doubled_policies_double_each_limit() -> None:
    """Rate and burst of each policy; other values stay."""
    broken = BROKEN["doubled-policies"](GIVEN)
    before, after = (yaml.safe_load(merged(each)["policies"]["inline"]) for each in (GIVEN, broken))
    for old, new in zip(before["policies"], after["policies"], strict=True):
        [old_limit], [new_limit] = old["limits"], new["limits"]
        least, double = (
            rate_quota(each["rate"], **({"burst": each["burst"]} if "burst" in each else {}))
            for each in (old_limit, new_limit)
        )
        assert (double.limit, double.burst) == (2 * least.limit, 2 * least.burst)
        assert double.period_us == least.period_us
    assert merged(broken)["policies"]["validate"] is False
    assert merged(GIVEN)["policies"]["inline"] == POLICIES
    assert broken[1] == GIVEN[1]


def test_limit_that_an_experiment_changes_is_not_doubled() -> None:
    """The experiment that changes it waits for its number; the limit of the example is doubled."""
    changed = POLICIES.replace("10/hour", "11/hour")
    [broken] = BROKEN["doubled-policies"]([{"policies": {"inline": changed}}])
    assert "11/hour" in broken["policies"]["inline"]
    example = yaml.safe_load((ROOT / "deploy/examples/orders/values.yaml").read_text())
    [broken] = BROKEN["doubled-policies"]([example])
    assert "rate: 10/minute" in broken["policies"]["inline"]


def test_each_pod_has_a_store_of_its_own() -> None:
    """The last file decides, after those of an installation."""
    broken = BROKEN["own-stores"](GIVEN)
    assert broken[:2] == GIVEN
    assert merged(broken)["valkey"] == {"enabled": False}
    *others, secret = merged(broken)["extraObjects"]
    assert others == GIVEN[0]["extraObjects"]
    assert secret["stringData"] == {"url": "memory://"}
    name = secret["metadata"]["name"]
    assert merged(broken)["externalRedis"] == {"existingSecret": {"name": name}}


def test_mutated_script_is_mounted_over_that_of_the_image() -> None:
    """Helm does not merge lists, so those of the installation are repeated."""
    broken = merged(BROKEN["mutated-script"](GIVEN))
    assert broken["extraVolumes"][:-1] == GIVEN[0]["extraVolumes"]
    assert broken["extraVolumeMounts"][:-1] == GIVEN[0]["extraVolumeMounts"]
    *others, config_map = broken["extraObjects"]
    assert others == GIVEN[0]["extraObjects"]
    mount = broken["extraVolumeMounts"][-1]
    assert mount["mountPath"].endswith("/fleetlimit/stores/redis/lua/acquire.lua")
    assert mount["subPath"] in config_map["data"]
    version = images()["BASE_IMAGE"].partition(":")[2].partition("-")[0]
    assert f"/python{version}/" in mount["mountPath"]
    # The chart renders these objects as templates.
    assert "{{" not in e2e_broken.mutated_script()


@pytest.mark.parametrize("algorithm", ["token_bucket", "fixed_window", "sliding_window"])
def test_mutated_script_admits_twice_the_limit(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Two buckets for each caller; the script works in every other respect."""
    for file in (ROOT / "app/fleetlimit/stores/redis/lua").glob("*.lua"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "acquire.lua").write_text(e2e_broken.mutated_script())
    monkeypatch.setattr(scripts, "_FOLDER", tmp_path)
    text = scripts.load_script.__wrapped__("acquire").text  # its cache has the original
    charge = f"1 {algorithm} 10 3600000000 10 1 0 "
    with redis.Redis.from_url(valkey.url) as client:
        replies = [client.eval(text, 1, f"{{a}}{algorithm}", 0, charge) for _ in range(200)]
    assert sum(each[1] for each in replies) == 20


def test_every_experiment_with_figures_must_notice_a_broken_limiter() -> None:
    """A test that writes a row into the report is marked as measured, and no other is."""
    measured = {}
    for file in sorted(SUITE.glob("test_*.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = [ast.unparse(each) for each in node.decorator_list]
                measured[node.name] = any("pytest.mark.measured" in each for each in marks)
                # The fixture `faults` writes the row of the other tests with it.
                writes = "report" in {each.arg for each in node.args.args} | {
                    "report" if node.name == "test_prometheus_has_the_counts_of_the_clients" else ""
                }
                assert measured[node.name] == writes, f"{file.name}: {node.name}"
    assert sum(measured.values()) >= 20


def test_kinds_of_experiments_with_a_store_exist() -> None:
    """A misspelt kind would leave experiments out."""
    assert {*WITH_STORE} < {*BROKEN}

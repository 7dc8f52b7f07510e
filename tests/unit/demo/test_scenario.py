"""Scenario: callers, their limits and the schedule of requests."""

from collections import Counter
from pathlib import Path

from fleetlimit.core.quota import Algorithm
from fleetlimit.demo.scenario import make_scenario
from fleetlimit.identity import ApiKeyVerifier


def test_every_caller_exceeds_its_limit(tmp_path: Path) -> None:
    """The limits follow from the number of requests."""
    scenario = make_scenario(tmp_path, requests=2_000, principals=5)
    sent = Counter(caller.name for _, caller in scenario.schedule(2_000, 3))
    assert sent == {
        "mallory": 750, "alice": 250, "bob": 250, "carol": 250, "dave": 250, "forger": 250,
    }  # fmt: skip
    limits = {caller.name: caller.quotas[0].limit for caller in scenario.callers}
    assert limits == {
        "mallory": 100, "alice": 200, "bob": 100, "carol": 200, "dave": 100, "forger": 100,
    }  # fmt: skip


def test_tiers_use_different_algorithms(tmp_path: Path) -> None:
    """One tier has a token bucket, the other a fixed window."""
    scenario = make_scenario(tmp_path, requests=100, principals=2)
    kinds = {caller.tier: caller.quotas[0].algorithm for caller in scenario.callers}
    assert kinds == {
        "free": Algorithm.TOKEN_BUCKET,
        "pro": Algorithm.FIXED_WINDOW,
        "": Algorithm.TOKEN_BUCKET,
    }


def test_schedule_spreads_each_caller_over_all_replicas(tmp_path: Path) -> None:
    """A caller at one replica would be limited without a shared store too."""
    for replicas in (1, 2, 3, 4, 8, 16):
        scenario = make_scenario(tmp_path, requests=960, principals=5)
        spread = Counter((caller.name, at) for at, caller in scenario.schedule(960, replicas))
        for caller in scenario.callers:
            counts = [spread[caller.name, at] for at in range(replicas)]
            assert max(counts) - min(counts) <= 1
        loads = Counter(at for at, _ in scenario.schedule(960, replicas))
        assert max(loads.values()) - min(loads.values()) <= len(scenario.callers)


def test_smallest_scenario_has_valid_limits(tmp_path: Path) -> None:
    """One request and many callers still make a valid policy file."""
    scenario = make_scenario(tmp_path, requests=1, principals=50)
    names = [caller.name for caller in scenario.callers]
    assert len(names) == len(set(names)) == 51
    assert {caller.quotas[0].limit for caller in scenario.callers} == {1}
    assert len(list(scenario.schedule(1, 3))) == 1


def test_forger_sends_a_new_key_and_address_each_time(tmp_path: Path) -> None:
    """No two of its requests have the same headers."""
    scenario = make_scenario(tmp_path, requests=10, principals=1)
    mallory, forger = scenario.callers
    assert mallory.headers(1) == mallory.headers(2) == {"X-API-Key": mallory.key}
    headers = [tuple(forger.headers(number).values()) for number in range(1_000)]
    assert len(set(headers)) == 1_000


async def test_key_file_contains_hashes_only(tmp_path: Path) -> None:
    """The key file names each caller with its tier and contains no key."""
    scenario = make_scenario(tmp_path, requests=10, principals=2)
    keys = ApiKeyVerifier(tmp_path / "keys.json")
    for caller in scenario.callers[:2]:
        assert caller.key
        assert caller.key not in (tmp_path / "keys.json").read_text(encoding="utf-8")
        found = await keys.resolve({"headers": [(b"x-api-key", caller.key.encode())]})
        assert found is not None
        assert (found.name, found.tier) == (caller.name, caller.tier)

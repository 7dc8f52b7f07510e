"""The callers and the policies that hold them."""

from collections import Counter
from pathlib import Path

from fleetlimit.core.quota import Algorithm
from fleetlimit.demo.scenario import make_scenario
from fleetlimit.identity import ApiKeyVerifier


def test_every_caller_sends_more_than_it_may(tmp_path: Path) -> None:
    """The limits follow from the number of requests, so that each is met."""
    scene = make_scenario(tmp_path, requests=2_000, principals=5)
    sent = Counter(caller.name for _, caller in scene.schedule(2_000, 3))
    assert sent == {
        "mallory": 750, "alice": 250, "bob": 250, "carol": 250, "dave": 250, "forger": 250,
    }  # fmt: skip
    limits = {caller.name: caller.quotas[0].limit for caller in scene.callers}
    assert limits == {
        "mallory": 100, "alice": 200, "bob": 100, "carol": 200, "dave": 100, "forger": 100,
    }  # fmt: skip


def test_tiers_count_in_different_ways(tmp_path: Path) -> None:
    """One tier has a token bucket, the other a fixed window."""
    scene = make_scenario(tmp_path, requests=100, principals=2)
    kinds = {caller.tier: caller.quotas[0].algorithm for caller in scene.callers}
    assert kinds == {
        "free": Algorithm.TOKEN_BUCKET,
        "pro": Algorithm.FIXED_WINDOW,
        "": Algorithm.TOKEN_BUCKET,
    }


def test_every_caller_goes_to_every_replica_in_turn(tmp_path: Path) -> None:
    """Whatever the numbers, a caller is spread evenly: at one replica any limiter holds."""
    for replicas in (1, 2, 3, 4, 8, 16):
        scene = make_scenario(tmp_path, requests=960, principals=5)
        spread = Counter((caller.name, at) for at, caller in scene.schedule(960, replicas))
        for caller in scene.callers:
            counts = [spread[caller.name, at] for at in range(replicas)]
            assert max(counts) - min(counts) <= 1
        loads = Counter(at for at, _ in scene.schedule(960, replicas))
        assert max(loads.values()) - min(loads.values()) <= len(scene.callers)


def test_the_smallest_scene_has_limits_too(tmp_path: Path) -> None:
    """One request and many callers still make a policy file that can be read."""
    scene = make_scenario(tmp_path, requests=1, principals=50)
    names = [caller.name for caller in scene.callers]
    assert len(names) == len(set(names)) == 51
    assert {caller.quotas[0].limit for caller in scene.callers} == {1}
    assert len(list(scene.schedule(1, 3))) == 1


def test_the_forger_invents_a_key_and_an_address_each_time(tmp_path: Path) -> None:
    """No two of its requests look alike, and no key of it is known."""
    scene = make_scenario(tmp_path, requests=10, principals=1)
    mallory, forger = scene.callers
    assert mallory.headers(1) == mallory.headers(2) == {"X-API-Key": mallory.key}
    headers = [tuple(forger.headers(number).values()) for number in range(1_000)]
    assert len(set(headers)) == 1_000


async def test_the_keys_are_known_to_the_service_by_hash_alone(tmp_path: Path) -> None:
    """The key file names each caller with its tier and has no key in it."""
    scene = make_scenario(tmp_path, requests=10, principals=2)
    keys = ApiKeyVerifier(tmp_path / "keys.json")
    for caller in scene.callers[:2]:
        assert caller.key
        assert caller.key not in (tmp_path / "keys.json").read_text(encoding="utf-8")
        found = await keys.resolve({"headers": [(b"x-api-key", caller.key.encode())]})
        assert found is not None
        assert (found.name, found.tier) == (caller.name, caller.tier)

"""Who takes part: callers of two tiers, a greedy one, and one that forges its identity."""

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from fleetlimit.core.quota import Quota
from fleetlimit.policy_file import load

POLICY = "exports"
PATH = "/exports"
_FORGER = "forger"
_GREEDY_SHARE = 3
"""How many requests a greedy caller sends for each one of another."""
_NAMES = ("mallory", "alice", "bob", "carol", "dave")
_FREE_PERCENT, _PRO_PERCENT = 40, 80
"""Limits in percent of what a caller that is not greedy sends, so that each one meets its limit."""
_UNITS = {3_600_000_000: "hour", 86_400_000_000: "day"}

_POLICIES = """\
version: 1
identity:
  api_keys: {{header: X-API-Key, file: keys.json}}
policies:
  - name: {policy}
    match: {{methods: [POST], routes: [{path}]}}
    key: principal
    limits: [{{rate: {free}/hour}}]
    tiers:
      pro: [{{rate: {pro}/day, algorithm: fixed_window}}]
    on_store_error: deny
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """One who sends requests.

    Args:
        name: The principal's name.
        tier: Its tier, empty for none.
        key: Its API key; None for the caller that invents one, and an address, each time.
        share: Requests in each round of the schedule.
        quotas: The limits that hold it.
    """

    name: str
    tier: str
    key: str | None
    share: int
    quotas: tuple[Quota, ...]

    @property
    def limits(self) -> str:
        """The limits in few words."""
        return ", ".join(f"{quota.limit:,}/{_UNITS[quota.period_us]}" for quota in self.quotas)

    def headers(self, number: int) -> Mapping[str, str]:
        """Return the headers of a request of this number."""
        if self.key is not None:
            return {"X-API-Key": self.key}
        address = f"203.0.{number // 256 % 256}.{number % 256}"
        return {"X-API-Key": f"forged-{number}", "X-Forwarded-For": address}


@dataclass(frozen=True, slots=True)
class Scenario:
    """The callers, and the policy file that holds them."""

    callers: tuple[Caller, ...]
    policy_file: Path

    def schedule(self, requests: int, replicas: int) -> Iterator[tuple[int, Caller]]:
        """Return the replica and the caller of each request, in order.

        Each caller goes round all replicas by itself; a common round could, when the numbers fit,
        keep a caller at one replica, where any limiter holds.
        """
        sent = {caller.name: place for place, caller in enumerate(self.callers)}
        for caller in islice(cycle(_one_round(self.callers)), requests):
            yield sent[caller.name] % replicas, caller
            sent[caller.name] += 1


def _one_round(callers: tuple[Caller, ...]) -> list[Caller]:
    return [caller for turn in range(_GREEDY_SHARE) for caller in callers if turn < caller.share]


def make_scenario(folder: Path, *, requests: int, principals: int) -> Scenario:
    """Write keys and policies to a folder.

    The limits follow from the number of requests, so that every caller sends more than it may.
    """
    requests_each = requests // (principals + _GREEDY_SHARE)
    text = _POLICIES.format(
        policy=POLICY,
        path=PATH,
        free=max(1, requests_each * _FREE_PERCENT // 100),
        pro=max(1, requests_each * _PRO_PERCENT // 100),
    )
    keys = {name: secrets.token_urlsafe() for name in _caller_names(principals)}
    tiers = {name: "pro" if place % 2 else "free" for place, name in enumerate(keys)}
    entries = [
        {
            "sha256": hashlib.sha256(key.encode()).hexdigest(),
            "principal": name,
            "tier": tiers[name],
        }
        for name, key in keys.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": entries}), encoding="utf-8")
    file = folder / "policies.yaml"
    file.write_text(text, encoding="utf-8")
    (policy,) = load(file).policy_set.policies
    callers = [
        Caller(
            name, tiers[name], key, 1 if place else _GREEDY_SHARE, policy.quotas_for(tiers[name])
        )
        for place, (name, key) in enumerate(keys.items())
    ]
    callers.append(Caller(_FORGER, "", None, 1, policy.quotas_for("")))
    return Scenario(tuple(callers), file)


def _caller_names(principals: int) -> list[str]:
    more = (f"caller-{number}" for number in range(len(_NAMES) + 1, principals + 1))
    return [*_NAMES[:principals], *more]

"""Scenario: callers of two tiers, one of them greedy, and a caller that forges its identity."""

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
"""Requests of the greedy caller for each request of another caller."""
_NAMES = ("mallory", "alice", "bob", "carol", "dave")
_FREE_PERCENT, _PRO_PERCENT = 40, 80
"""Limits in percent of the requests of a caller, below 100 so that each caller is limited."""
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
    """A caller of the service.

    Args:
        name: Name of the principal.
        tier: Tier of the principal, or empty.
        key: API key; None for the forger, which sends another key and address each time.
        share: Requests in each round of the schedule.
        quotas: Limits that apply to the caller.
    """

    name: str
    tier: str
    key: str | None
    share: int
    quotas: tuple[Quota, ...]

    @property
    def limits(self) -> str:
        """The limits as text, such as `100/hour`."""
        return ", ".join(f"{quota.limit:,}/{_UNITS[quota.period_us]}" for quota in self.quotas)

    def headers(self, number: int) -> Mapping[str, str]:
        """Return the headers of the request with this number."""
        if self.key is not None:
            return {"X-API-Key": self.key}
        address = f"203.0.{number // 256 % 256}.{number % 256}"
        return {"X-API-Key": f"forged-{number}", "X-Forwarded-For": address}


@dataclass(frozen=True, slots=True)
class Scenario:
    """The callers, and the policy file that limits them."""

    callers: tuple[Caller, ...]
    policy_file: Path

    def schedule(self, requests: int, replicas: int) -> Iterator[tuple[int, Caller]]:
        """Return the replica's index and the caller of each request, in order.

        Each caller has a round robin of its own. With a common one, some numbers would send all
        requests of a caller to one replica, where a limiter without a shared store holds too.
        """
        sent = {caller.name: index for index, caller in enumerate(self.callers)}
        for caller in islice(cycle(_one_round(self.callers)), requests):
            yield sent[caller.name] % replicas, caller
            sent[caller.name] += 1


def _one_round(callers: tuple[Caller, ...]) -> list[Caller]:
    return [caller for turn in range(_GREEDY_SHARE) for caller in callers if turn < caller.share]


def make_scenario(folder: Path, *, requests: int, principals: int) -> Scenario:
    """Write the key file and the policy file to a folder.

    The limits follow from the number of requests, so that every caller exceeds its limit.
    """
    requests_each = requests // (principals + _GREEDY_SHARE)
    text = _POLICIES.format(
        policy=POLICY,
        path=PATH,
        free=max(1, requests_each * _FREE_PERCENT // 100),
        pro=max(1, requests_each * _PRO_PERCENT // 100),
    )
    keys = {name: secrets.token_urlsafe() for name in _caller_names(principals)}
    tiers = {name: "pro" if index % 2 else "free" for index, name in enumerate(keys)}
    entries = [
        {
            "sha256": hashlib.sha256(key.encode()).hexdigest(),
            "principal": name,
            "tier": tiers[name],
        }
        for name, key in keys.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": entries}), encoding="utf-8")
    policy_file = folder / "policies.yaml"
    policy_file.write_text(text, encoding="utf-8")
    (policy,) = load(policy_file).policy_set.policies
    callers = [
        Caller(
            name,
            tiers[name],
            key,
            1 if index else _GREEDY_SHARE,
            policy.quotas_for(tiers[name]),
        )
        for index, (name, key) in enumerate(keys.items())
    ]
    callers.append(Caller(_FORGER, "", None, 1, policy.quotas_for("")))
    return Scenario(tuple(callers), policy_file)


def _caller_names(principals: int) -> list[str]:
    more = (f"caller-{number}" for number in range(len(_NAMES) + 1, principals + 1))
    return [*_NAMES[:principals], *more]

"""Set-up of the experiments: callers with keys, policies, chart values and streams of requests."""

import hashlib
from collections.abc import Sequence
from typing import Final

import yaml

from fleetlimit.core.quota import Algorithm, rate_quota
from support.e2e_load import Stream
from support.e2e_tokens import jwks

CALLERS: Final = 5
STORE_TIMEOUT: Final = 0.5
"""Store timeout of the pods, in seconds. Nodes on two shared cores, on which interpreters start,
stall for longer than the default of 50 ms."""
PATIENT: Final = {"settings": {"storeTimeoutSeconds": 10}}
"""Values of experiments in which many pods start and the store never fails: a node that stalls
for seconds must not pass for an outage, in which policies admit requests without the store."""
EXPERIMENTS: Final = (
    *("many-pods", "killed", "rolling", "scaled", "autoscaled", "drained", "store", "cut-off"),
    *("paused", "slow", "reload", "change-of-store", "external-tls", "sentinel", "shards", "moved"),
    *("observed", "collector-down", "collector-frozen", "prefetched"),
)
QUOTAS: Final = {
    "bucket": rate_quota("30/minute", burst=6),
    "fixed": rate_quota("4 per 10 s", algorithm=Algorithm.FIXED_WINDOW),
    "sliding": rate_quota("4 per 10 s", algorithm=Algorithm.SLIDING_WINDOW),
    "spoofed": rate_quota("10/hour"),
}
"""Limits so low that four requests per second are twice what a caller may have within seconds."""
TIERS: Final = ("free", "pro")
"""Tiers of the callers, in turn."""
ALGORITHMS: Final = ("bucket", "fixed", "sliding")
ROUTES: Final = {
    "bucket": ("GET", "/items/1"),
    "fixed": ("POST", "/exports"),
    "sliding": ("GET", "/whoami"),
    "spoofed": ("GET", "/stream?lines=0"),
}
POLICIES: Final = """\
version: 1
identity:
  api_keys: {file: /etc/fleetlimit/keys/keys.yaml}
  jwt:
    issuer: "https://issuer.example"
    audience: kind-suite
    jwks: /etc/fleetlimit/jwks/jwks.json
policies:
  - name: bucket
    match: {methods: [GET], routes: ["/items/{item_id}"]}
    limits: [{rate: 30/minute, burst: 6}]
    on_store_error: local
  - name: fixed
    match: {methods: [POST], routes: [/exports]}
    limits: [{rate: 4 per 10 s, algorithm: fixed_window}]
    on_store_error: deny
  - name: sliding
    match: {methods: [GET], routes: [/whoami]}
    limits: [{rate: 4 per 10 s, algorithm: sliding_window}]
    on_store_error: allow
  - name: spoofed
    match: {methods: [GET], routes: [/stream]}
    limits: [{rate: 10/hour}]
"""
_JWKS: Final = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "issuer"},
    "data": {"jwks.json": jwks()},
}


def _key(caller: str) -> str:
    return f"key-of-{caller}"


def callers(experiment: str) -> tuple[str, ...]:
    """Return the callers of an experiment. No other experiment uses their buckets."""
    return tuple(f"{experiment}-{number}" for number in range(1, CALLERS + 1))


def values(image: str, valkey: str) -> dict[str, object]:
    """Return the values for the installation of the chart."""
    everyone = [caller for experiment in EXPERIMENTS for caller in callers(experiment)]
    keys = [
        {
            "sha256": hashlib.sha256(_key(caller).encode()).hexdigest(),
            "principal": caller,
            "tier": TIERS[number % len(TIERS)],
        }
        for number, caller in enumerate(everyone)
    ]
    return {
        "image": image_values(image),
        "valkey": {"image": image_values(valkey)},
        # The Job would wait for the ConfigMap of the issuer, which is an object of the release.
        "policies": {"inline": POLICIES, "validate": False},
        "settings": {"storeTimeoutSeconds": STORE_TIMEOUT},
        "apiKeys": {"inline": yaml.safe_dump({"keys": keys})},
        "extraObjects": [_JWKS],
        "extraVolumes": [{"name": "jwks", "configMap": {"name": "issuer"}}],
        "extraVolumeMounts": [{"name": "jwks", "mountPath": "/etc/fleetlimit/jwks"}],
    }


def streams(
    experiment: str, *, per_second: float, policies: Sequence[str] = ALGORITHMS
) -> tuple[Stream, ...]:
    """Return streams of all callers of an experiment, each at this rate under each policy."""
    return tuple(
        Stream(policy, caller, *ROUTES[policy], per_second, {"X-API-Key": _key(caller)})
        for policy in policies
        for caller in callers(experiment)
    )


def image_values(name: str) -> dict[str, str]:
    """Return the values of an image, from its repository and tag."""
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}

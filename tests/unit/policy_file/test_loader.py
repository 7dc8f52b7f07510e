"""Loader of policy files: policies of valid files, errors of invalid ones."""

import hashlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.bootstrap.policy_json import limit_to_dict
from fleetlimit.core.exemption import Exemption
from fleetlimit.core.key_parts import KeyKind, KeyPart
from fleetlimit.core.policy import Match, Mode, OnStoreError, Policy
from fleetlimit.core.quota import Algorithm, concurrency_quota, rate_quota
from fleetlimit.errors import ConfigError, DocumentError
from fleetlimit.policy_file import json_schema, load, parse
from fleetlimit.strict_yaml import DocumentErrors
from support.policies import PRODUCT_EXAMPLE, one_policy, schema_accepts

CONCURRENT = """\
version: 1
defaults: {on_store_error: deny, mode: shadow}
policies:
  - name: exports
    key: [principal, 'header:X-Tenant', route]
    match: {methods: [post, WebSocket], routes: [/exports, '/files/*', unmatched], tiers: [free]}
    limits: [{concurrency: 3, lease: 5, cost: 2}]
    enforce_percent: 10
  - name: by-name-only
    limits: [{rate: 5/minute}]
    mode: off
    on_store_error: allow
"""
PIECES = ["version: 1\n", "policies:\n", "  - ", "name: a", "limits: ", "[", "]", "{", "}", ", "]
PIECES += ["rate: 5/s", "concurrency: 1", "tiers: ", "&a ", "*a", "key: ", "match:", "\n", "    "]
PIECES += ["- 1\n", "identity: ", "trusted_proxies: ", "jwt: ", "!!int ", "---\n", "'", '"', "<<: "]


def test_documented_example_is_loaded() -> None:
    """The documentation's example has the documented meaning."""
    loaded = parse(PRODUCT_EXAMPLE)

    assert loaded.policy_set.policies == (
        Policy("default", limits=(rate_quota("100/minute", burst=150),)),
        Policy(
            "exports",
            match=Match(frozenset({"POST"}), ("/exports",)),
            tiers={
                "free": (rate_quota("5/minute"),),
                "pro": (
                    rate_quota("60/minute"),
                    rate_quota("1000/day", algorithm=Algorithm.FIXED_WINDOW),
                ),
            },
            on_store_error=OnStoreError.DENY,
        ),
    )
    identity = loaded.identity
    assert identity.trusted_proxies == ("10.0.0.0/8",)
    assert identity.api_keys is not None
    assert identity.api_keys.file == Path("/etc/fleetlimit/keys.yaml")
    assert identity.jwt is not None
    assert (identity.jwt.jwks, identity.jwt.tier_claim) == ("https://...", "plan")
    assert (identity.ipv6_prefix, identity.forwarded_header) == (64, "x-forwarded-for")
    assert not identity.reject_invalid


def test_file_rewritten_by_another_tool_is_equal() -> None:
    """A file rewritten by another YAML tool, without comments and flow style, is equal."""
    again = yaml.safe_dump(yaml.safe_load(PRODUCT_EXAMPLE), default_flow_style=False)

    assert parse(again).policy_set.policies == parse(PRODUCT_EXAMPLE).policy_set.policies
    assert parse(again).identity == parse(PRODUCT_EXAMPLE).identity


def test_every_field_reaches_the_policy() -> None:
    """Keys, matches, leases, costs, percentages and defaults are loaded as written."""
    assert parse(CONCURRENT).policy_set.policies == (
        Policy(
            "exports",
            limits=(concurrency_quota(3, lease=5, cost=2),),
            key=(
                KeyPart(KeyKind.PRINCIPAL),
                KeyPart(KeyKind.HEADER, "x-tenant"),
                KeyPart(KeyKind.ROUTE),
            ),
            match=Match(
                frozenset({"POST", "WEBSOCKET"}),
                ("/exports", "/files/*", "unmatched"),
                frozenset({"free"}),
            ),
            mode=Mode.SHADOW,
            enforce_percent=10,
            on_store_error=OnStoreError.DENY,
        ),
        Policy(
            "by-name-only",
            limits=(rate_quota("5/minute"),),
            mode=Mode.OFF,
            on_store_error=OnStoreError.ALLOW,
        ),
    )


def test_exempt_reaches_the_policy() -> None:
    """The lists of an exemption and a path parameter are loaded as written."""
    text = """\
version: 1
policies:
  - name: default
    key: ['path:tenant', principal]
    limits: [{rate: 100/minute}]
    exempt: {routes: [/health, '/docs*'], networks: [10.0.0.0/8, '2001:db8::/32'], tiers: [staff],
             principals: [ann]}
"""
    expected = Policy(
        "default",
        "100/minute",
        key=["path:tenant", "principal"],
        exempt=Exemption(
            routes=["/health", "/docs*"],
            networks=["10.0.0.0/8", "2001:db8::/32"],
            tiers=["staff"],
            principals=["ann"],
        ),
    )
    assert parse(text).policy_set.policies == (expected,)


CALENDARS = """
version: 1
policies:
  - name: default
    limits:
      - {rate: 1000/month, timezone: Europe/Berlin, anchor: 31}
      - {rate: 400/week, anchor: sun}
      - {rate: 100/day, timezone: Asia/Tokyo, algorithm: fixed_window}
      - {rate: 9000/year, anchor: 04-01}
"""


def test_limits_of_calendars_are_loaded() -> None:
    """Time zone and anchor reach the limits, and the JSON of `/policies` and `explain`."""
    (policy,) = parse(CALENDARS).policy_set.policies
    assert policy.limits == (
        rate_quota("1000/month", timezone="Europe/Berlin", anchor=31),
        rate_quota("400/week", anchor="sunday"),
        rate_quota("100/day", timezone="Asia/Tokyo"),
        rate_quota("9000/year", anchor="04-01"),
    )
    assert [each.name for each in policy.limits] == ["month", "week", "day", "year"]
    assert [limit_to_dict(each) for each in policy.limits[:1]] == [
        {
            "name": "month",
            "algorithm": "fixed_window",
            "limit": 1_000,
            "seconds": 31 * 86_400,
            "burst": 1_000,
            "cost": 1,
            "unit": "month",
            "timezone": "Europe/Berlin",
            "anchor": 31,
        }
    ]
    schema = json_schema()
    assert schema_accepts(schema, yaml.safe_load(CALENDARS), schema)


def test_prefetch_is_a_word_or_an_exact_fraction() -> None:
    """`prefetch` is read as written, and absent by default; `off` is no boolean."""
    text = """\
version: 1
policies:
  - {name: a, key: global, limits: [{rate: 100/minute}], prefetch: 0.29}
  - {name: b, limits: [{rate: 100/minute}]}
  - {name: c, limits: [{rate: 100/minute}], prefetch: auto}
  - {name: d, limits: [{rate: 100/minute}], prefetch: off}
"""
    limits = (rate_quota("100/minute"),)

    assert parse(text).policy_set.policies == (
        Policy("a", limits, key=(KeyPart(KeyKind.GLOBAL),), prefetch=0.29),
        Policy("b", limits),
        Policy("c", limits, prefetch="auto"),
        Policy("d", limits, prefetch="off"),
    )
    schema = json_schema()
    document = yaml.safe_load(text.replace("off", "'off'"))
    assert schema_accepts(schema, document, schema)
    document["policies"][0]["prefetch"] = "much"
    assert not schema_accepts(schema, document, schema)


def test_identity_networks_are_normalised() -> None:
    """Networks are normalised, with a single address as a network; other fields stay."""
    more = """\
identity:
  trusted_proxies: [10.0.0.7, FD00::/8, 10.0.0.0/255.255.0.0]
  forwarded_header: forwarded
  ipv6_prefix: 56
  jwt: {issuer: i, audience: a, jwks: https://i.example/jwks, algorithms: [EdDSA]}
  reject_invalid: true
"""
    identity = parse(one_policy(more=more)).identity

    assert identity.trusted_proxies == ("10.0.0.7/32", "fd00::/8", "10.0.0.0/16")
    assert (identity.forwarded_header, identity.ipv6_prefix) == ("forwarded", 56)
    assert identity.jwt is not None
    assert (identity.jwt.algorithms, identity.jwt.tier_claim) == (("EdDSA",), None)
    assert identity.reject_invalid


def test_files_of_all_credentials_are_relative_to_the_policy_file() -> None:
    """Key files, secrets and JWKS files are resolved, and watched; a URL is no file."""
    more = """\
identity:
  trusted_proxies: [10.0.0.0/8]
  client_address_header: CF-Connecting-IP
  api_keys: {scheme: Bearer, file: keys.yaml}
  issuers:
    - {issuer: a, audience: x, jwks: a.json}
    - {issuer: b, audience: x, jwks: https://b.example/jwks}
    - {issuer: c, audience: x, secret_file: c.txt}
    - {issuer: d, audience: x, secret_file: /run/d.txt, algorithms: [HS512]}
"""
    identity = parse(one_policy(more=more), directory=Path("/etc/limits")).identity

    assert [str(file) for file in identity.files] == [
        *("/etc/limits/keys.yaml", "/etc/limits/a.json", "/etc/limits/c.txt", "/run/d.txt")
    ]
    assert [each.accepted_algorithms for each in identity.issuers] == [
        ("RS256", "ES256"),
        ("RS256", "ES256"),
        ("HS256",),
        ("HS512",),
    ]
    assert identity.api_keys is not None
    assert identity.api_keys.sent_in == "Authorization"


def test_empty_list_of_policies_is_valid() -> None:
    """A file with an explicitly empty list of policies is valid."""
    loaded = parse("version: 1\npolicies: []\n")

    assert loaded.policy_set.policies == ()
    assert loaded.identity.files == ()


def test_empty_file_is_rejected() -> None:
    """An empty file is an error for each missing field."""
    with pytest.raises(ConfigError) as rejected:
        parse("# later\n", source="p.yaml")

    assert str(rejected.value).splitlines() == [
        "p.yaml:2: `version` is missing: add it",
        "p.yaml:2: `policies` is missing: add it",
    ]


def test_aliases_repeat_limits() -> None:
    """Limits can be written once and used twice."""
    text = "version: 1\npolicies:\n- {name: a, limits: &l [{rate: 5/s}]}\n- {name: b, limits: *l}\n"

    first, second = parse(text).policy_set.policies

    assert first.limits == second.limits == (rate_quota("5/s"),)


def test_error_behind_an_alias_is_reported_at_both_lines() -> None:
    """An error in an aliased value is reported where it is written and where it is repeated."""
    text = "version: 1\npolicies:\n- {name: a, limits: &l [{rate: x}]}\n- {name: b, limits: *l}\n"

    with pytest.raises(DocumentErrors) as rejected:
        parse(text)

    assert [error.line for error in rejected.value.errors] == [3, 4]


def test_policy_set_has_generation_source_and_digest(tmp_path: Path) -> None:
    """A policy set has its generation, its file and a digest of the text."""
    path = tmp_path / "policies.yaml"
    path.write_text(one_policy())

    policies = load(path, generation=7).policy_set

    assert (policies.generation, policies.source) == (7, str(path))
    assert policies.digest == hashlib.sha256(one_policy().encode()).hexdigest()[:12]


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """Relative paths are relative to the policy file; absolute paths and URLs stay."""
    jwt = "jwt: {issuer: i, audience: a, jwks: jwks.json}"
    more = f"identity: {{api_keys: {{file: keys.yaml}}, {jwt}}}\n"
    path = tmp_path / "policies.yaml"
    path.write_text(one_policy(more=more))

    assert load(path).identity.files == (tmp_path / "keys.yaml", tmp_path / "jwks.json")
    assert parse(PRODUCT_EXAMPLE).identity.files == (Path("/etc/fleetlimit/keys.yaml"),)
    assert parse(one_policy(more=more)).identity.files == (Path("keys.yaml"), Path("jwks.json"))


def test_all_errors_are_reported_in_line_order() -> None:
    """All errors of a file are reported at once, in line order."""
    text = """\
version: 2
policies:
  - name: a
    limits: [{rate: 0/s}, {rate: 5/s, brust: 1}]
    ky: route
    ky: global
  - name: a
    mode: on
  - 5
"""
    with pytest.raises(ConfigError) as rejected:
        parse(text, source="p.yaml")

    assert isinstance(rejected.value, DocumentErrors)
    assert all(isinstance(error, DocumentError) for error in rejected.value.errors)
    assert str(rejected.value).splitlines() == [
        "p.yaml:1: `version` cannot be 2: write 1",
        "p.yaml:4: '0/s' allows nothing: write numbers from 1",
        'p.yaml:4: there is no field "brust" here: write `burst`',
        'p.yaml:5: there is no field "ky" here: write `key`',
        "p.yaml:6: this key occurs twice, first in line 5: keep one",
        "p.yaml:7: two policies are named 'a': rename one of them",
        "p.yaml:8: `mode` cannot be \"on\": write 'enforce', 'shadow' or 'off'",
        "p.yaml:9: `policies[2]` must be a mapping such as {...}, not 5",
    ]


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """The error of a missing file has its name."""
    with pytest.raises(DocumentErrors, match=r"gone\.yaml: the file cannot be read \(No such file"):
        load(tmp_path / "gone.yaml")


ANY = st.text(st.characters(exclude_categories=())) | st.lists(st.sampled_from(PIECES)).map("".join)


def reasons(text: str) -> tuple[DocumentError, ...] | None:
    try:
        parse(text)
    except DocumentErrors as error:
        return error.errors
    return None


@given(ANY)
def test_any_text_raises_only_document_errors(text: str) -> None:
    """Any text either loads or raises `DocumentErrors` with at least one error."""
    assert reasons(text) != ()

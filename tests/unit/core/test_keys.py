"""Keys of buckets: no identity in clear text, a bounded length, and no collisions."""

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.key_parts import KeyPart
from fleetlimit.core.keys import KeyScheme, parse_bucket_key
from fleetlimit.core.policy import Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError

QUOTAS = (rate_quota("5/minute"), rate_quota("1000/day"))
SECRET = b"0123456789abcdef"
KEY_SCHEME = KeyScheme(SECRET)


def policy_with_key(*parts: str, name: str = "exports") -> Policy:
    """Return a policy with this key."""
    return Policy(name, QUOTAS, key=tuple(KeyPart.parse(part) for part in parts))


def bucket_key(policy: Policy, subject: Subject, keys: KeyScheme = KEY_SCHEME) -> str:
    """Return the key of the bucket of the policy's first limit."""
    return keys.bucket_keys(policy, subject, QUOTAS)[0]


def subject_named(name: str, *, route: str = "GET /a") -> Subject:
    """Return a subject with a verified principal."""
    return Subject("192.0.2.1", Principal(name), route)


def hash_tag(key: str) -> str:
    """Return the hash tag, which determines the Cluster slot."""
    found = re.search(r"\{(.*?)\}", key)
    assert found
    return found[1]


EVERY_KEY = [
    *(["principal"], ["client_address"], ["header:x-tenant"], ["route"], ["global"]),
    ["principal", "route", "header:x-tenant"],
]


def test_bucket_key_contains_version_tag_policy_and_limit() -> None:
    """Each limit has a bucket, and all of them share one slot."""
    first, second = KEY_SCHEME.bucket_keys(
        policy_with_key("principal"), subject_named("ann"), QUOTAS
    )
    assert re.fullmatch(r"fl2:\{[\w-]{16}\}:exports:tb60", first)
    assert second == first.replace("tb60", "tb86400")


@pytest.mark.parametrize("parts", EVERY_KEY)
@pytest.mark.parametrize("keys", [KEY_SCHEME, KeyScheme()], ids=["keyed", "plain"])
def test_bucket_key_contains_no_identity(keys: KeyScheme, parts: list[str]) -> None:
    """Neither principal, address nor header value is part of a key in clear text."""
    subject = Subject("192.0.2.77", Principal("ann@example.org"), "GET /a", {"x-tenant": "acme"})
    for secret in ("ann", "example", "192.0", ".77", "acme"):
        assert secret not in bucket_key(policy_with_key(*parts), subject, keys)


@pytest.mark.parametrize("parts", EVERY_KEY)
def test_bucket_key_has_a_bounded_length(parts: list[str]) -> None:
    """An identity of 64 KB makes no longer key than any other."""
    long = "\N{PILE OF POO}\0" * 13_000
    subject = Subject(long, Principal(long), long, {"x-tenant": long})
    policy = policy_with_key(*parts, name="p" * 64)
    keys = KeyScheme(SECRET, prefix="x" * 32)
    assert len(bucket_key(policy, subject, keys)) <= 160
    assert len(bucket_key(policy, subject, keys)) == len(
        bucket_key(policy, subject_named("a"), keys)
    )


def test_bucket_key_accepts_a_lone_surrogate() -> None:
    """A header with a lone surrogate, as some servers decode one, has a bucket of its own."""
    assert bucket_key(policy_with_key("principal"), subject_named("\udcff")) != bucket_key(
        policy_with_key("principal"), subject_named("?")
    )


def test_key_scheme_secret_changes_every_hash() -> None:
    """Keys under different secrets, or none, differ; under one secret they are equal."""
    schemes = [KEY_SCHEME, KeyScheme(b"fedcba9876543210"), KeyScheme()]
    found = [
        bucket_key(policy_with_key("principal", "route"), subject_named("ann"), keys)
        for keys in schemes
    ]
    for one, other in combinations(found, 2):
        assert hash_tag(one) != hash_tag(other)
        assert one.rpartition(":")[2] != other.rpartition(":")[2]
    assert bucket_key(
        policy_with_key("principal"), subject_named("ann"), KeyScheme(SECRET)
    ) == bucket_key(policy_with_key("principal"), subject_named("ann"))


def test_bucket_key_differs_between_identities() -> None:
    """No two clients share a bucket (fastapi-limiter #80, PyrateLimiter #238)."""
    subjects = [
        subject_named("ann"),
        subject_named("bob"),
        subject_named("192.0.2.1"),
        Subject("192.0.2.1"),
        Subject("192.0.2.2"),
    ]
    assert len({bucket_key(policy_with_key("principal"), each) for each in subjects}) == len(
        subjects
    )


def test_bucket_key_ignores_credential_address_and_tier() -> None:
    """A caller keeps its bucket whichever credential it sends, from any address and in any tier."""
    doors = [
        Subject("192.0.2.1", Principal("ann", "pro", "jwt")),
        Subject("192.0.2.2", Principal("ann", "free", "api_key")),
    ]
    assert len({bucket_key(policy_with_key("principal"), each) for each in doors}) == 1


def test_bucket_keys_of_a_caller_share_a_slot() -> None:
    """Policies keyed on the principal first share its slot; two callers have different slots."""
    ann = subject_named("ann")
    alone, route = (
        bucket_key(policy_with_key("principal"), ann),
        bucket_key(policy_with_key("principal", "route"), ann),
    )
    assert hash_tag(alone) == hash_tag(route)
    assert alone != route
    assert hash_tag(bucket_key(policy_with_key("principal"), subject_named("bob"))) != hash_tag(
        alone
    )


def test_bucket_keys_of_an_address_share_a_slot() -> None:
    """A policy per address shares the slot of the address's anonymous callers."""
    anonymous = Subject("192.0.2.1")
    assert hash_tag(
        bucket_key(policy_with_key("client_address"), subject_named("ann"))
    ) == hash_tag(bucket_key(policy_with_key("principal"), anonymous))


def test_bucket_key_without_the_header_is_the_callers() -> None:
    """A missing header falls back to the caller; an empty value is a value."""
    policy = policy_with_key("header:x-tenant")
    absent = bucket_key(policy, subject_named("ann"))
    assert absent != bucket_key(policy, subject_named("bob"))
    empty = Subject("192.0.2.1", Principal("ann"), headers={"x-tenant": ""})
    other = Subject("192.0.2.1", Principal("bob"), headers={"x-tenant": ""})
    assert absent != bucket_key(policy, empty) == bucket_key(policy, other)


def test_bucket_key_of_a_header_cannot_name_a_principal() -> None:
    """A header that spells a principal's component is still a header."""
    policy = policy_with_key("header:x-tenant")
    forged = Subject(headers={"x-tenant": "principal\0ann"})
    assert bucket_key(policy, forged) != bucket_key(policy, subject_named("ann"))


def test_global_bucket_key_is_shared_by_all_callers() -> None:
    """All callers share a global policy's bucket, and two such policies share none."""
    assert bucket_key(policy_with_key("global"), subject_named("ann")) == bucket_key(
        policy_with_key("global"), subject_named("bob")
    )
    other = policy_with_key("global", name="other")
    assert hash_tag(bucket_key(policy_with_key("global"), subject_named("ann"))) != hash_tag(
        bucket_key(other, subject_named("ann"))
    )


TEXT = st.text(st.sampled_from("a\0\1\2"), max_size=4)


@given(
    one=st.tuples(TEXT, TEXT, TEXT),
    other=st.tuples(TEXT, TEXT, TEXT),
)
def test_bucket_key_components_are_unambiguous(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Two lists of components give one key only if they are equal."""
    policy = policy_with_key("route", "header:x-a", "header:x-b")
    keys = [
        bucket_key(policy, Subject(route=route, headers={"x-a": a, "x-b": b}))
        for route, a, b in (one, other)
    ]
    assert (keys[0] == keys[1]) is (one == other)


def test_rollout_percentile_is_stable_and_even() -> None:
    """Each key has one number from 0 to 99, under every secret, and all numbers occur."""
    policy = policy_with_key("principal", "route")
    found = [
        KEY_SCHEME.rollout_percentile(policy, subject_named(f"caller{number}"))
        for number in range(2_000)
    ]
    assert set(found) == set(range(100))
    assert found[0] == KeyScheme().rollout_percentile(policy, subject_named("caller0"))


def test_replica_keys_share_one_slot() -> None:
    """The keys of the heartbeat and of the audit share a slot that no policy uses."""
    keys = KeyScheme(prefix="mine")
    assert (keys.replicas_key, keys.epoch_key) == ("mine2:{fleet}:replicas", "mine2:{fleet}:epoch")
    assert keys.reports_key == "mine2:{fleet}:reports"
    assert keys.auditors_key == "mine2:{fleet}:auditors"


@pytest.mark.parametrize("parts", [["principal"], ["route", "principal"], ["global"]])
def test_parse_bucket_key_returns_policy_quota_and_caller(parts: list[str]) -> None:
    """Every prefix can be parsed, and a caller has the same hashes in all its keys."""
    policy, keys = policy_with_key(*parts, name="a.b/c-d"), KeyScheme(SECRET, prefix="a:b")
    minute, day = keys.bucket_keys(policy, subject_named("alice"), QUOTAS)
    parsed = [parse_bucket_key(key) for key in (minute, day)]
    assert [each.policy for each in parsed] == ["a.b/c-d"] * 2
    assert [each.quota_name for each in parsed] == ["tb60", "tb86400"]
    alice, bob = (
        parse_bucket_key(bucket_key(policy, subject_named(name))).caller
        for name in ("alice", "bob")
    )
    assert [each.caller for each in parsed] == [alice] * 2
    assert len(alice) == 16 + 17 * (len(parts) - 1)
    if parts != ["global"]:
        assert alice != bob


def test_key_scheme_rejects_a_short_secret() -> None:
    """A secret that could be guessed is an error."""
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        KeyScheme(SECRET[:15])


@pytest.mark.parametrize("prefix", ["", "x" * 33, "a{b", "a}b", "a b", "a\nb", "a\rb"])
def test_key_scheme_rejects_an_invalid_prefix(prefix: str) -> None:
    """Braces would move the hash tag; an empty or long prefix is an error, too."""
    with pytest.raises(ConfigError, match="key prefix"):
        KeyScheme(prefix=prefix)


def test_digest_of_a_long_text_is_not_cached() -> None:
    """Long texts, which clients can send, are hashed each time, to the same digest."""
    keys = KeyScheme()
    for length in (10, 1_000):
        subject = Subject(principal=Principal("a" * length))
        assert (
            keys.subject_hash(subject)
            == keys.subject_hash(subject)
            == keys.digest(f"p\0{subject.identity}")
        )
    assert keys._cached_digest.cache_info().currsize == 1
    assert keys._cached_principal_digest.cache_info().currsize == 1

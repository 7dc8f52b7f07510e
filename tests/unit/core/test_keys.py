"""Keys name buckets without naming anybody, in a bounded length, and never two as one."""

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.keys import KeyScheme, parse_bucket_key
from fleetlimit.core.policy import KeyPart, Policy
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
    """Return the key of the policy's first limit."""
    return keys.bucket_keys(policy, subject, QUOTAS)[0]


def subject_named(name: str, *, route: str = "GET /a") -> Subject:
    """Return a subject with a verified identity."""
    return Subject("192.0.2.1", Principal(name), route)


def hash_tag(key: str) -> str:
    """Return what decides the key's Cluster slot."""
    found = re.search(r"\{(.*?)\}", key)
    assert found
    return found[1]


EVERY_KEY = [
    *(["principal"], ["client_address"], ["header:x-tenant"], ["route"], ["global"]),
    ["principal", "route", "header:x-tenant"],
]


def test_key_is_made_of_version_tag_policy_and_limit() -> None:
    """Each limit has its bucket, all of them in one slot."""
    first, second = KEY_SCHEME.bucket_keys(
        policy_with_key("principal"), subject_named("ann"), QUOTAS
    )
    assert re.fullmatch(r"fl1:\{[\w-]{16}\}:exports:tb60", first)
    assert second == first.replace("tb60", "tb86400")


@pytest.mark.parametrize("parts", EVERY_KEY)
@pytest.mark.parametrize("keys", [KEY_SCHEME, KeyScheme()], ids=["keyed", "plain"])
def test_no_identity_is_in_a_key(keys: KeyScheme, parts: list[str]) -> None:
    """Neither principal, address nor header is written in a key in clear."""
    subject = Subject("192.0.2.77", Principal("ann@example.org"), "GET /a", {"x-tenant": "acme"})
    for secret in ("ann", "example", "192.0", ".77", "acme"):
        assert secret not in bucket_key(policy_with_key(*parts), subject, keys)


@pytest.mark.parametrize("parts", EVERY_KEY)
def test_key_of_an_endless_identity_is_bounded(parts: list[str]) -> None:
    """A client that sends 64 KB of identity makes no longer key than any other."""
    long = "\N{PILE OF POO}\0" * 13_000
    subject = Subject(long, Principal(long), long, {"x-tenant": long})
    policy = policy_with_key(*parts, name="p" * 64)
    keys = KeyScheme(SECRET, prefix="x" * 32)
    assert len(bucket_key(policy, subject, keys)) <= 160
    assert len(bucket_key(policy, subject, keys)) == len(
        bucket_key(policy, subject_named("a"), keys)
    )


def test_text_that_is_no_text_has_a_key() -> None:
    """A header with a lone surrogate, as some servers decode one, has a bucket of its own."""
    assert bucket_key(policy_with_key("principal"), subject_named("\udcff")) != bucket_key(
        policy_with_key("principal"), subject_named("?")
    )


def test_secret_changes_every_hash() -> None:
    """Keys under two secrets, or none, have nothing in common; under one they are equal."""
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


def test_two_identities_have_two_buckets() -> None:
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


def test_one_identity_has_one_bucket_behind_every_door() -> None:
    """A caller keeps its bucket whatever verified it, from any address and in any tier."""
    doors = [
        Subject("192.0.2.1", Principal("ann", "pro", "jwt")),
        Subject("192.0.2.2", Principal("ann", "free", "api_key")),
    ]
    assert len({bucket_key(policy_with_key("principal"), each) for each in doors}) == 1


def test_caller_meets_all_its_policies_in_one_slot() -> None:
    """Policies per principal, and per principal and more, share a slot; two callers do not."""
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


def test_address_is_one_slot_with_and_without_a_principal() -> None:
    """A policy per address meets the buckets of the address's anonymous callers."""
    anonymous = Subject("192.0.2.1")
    assert hash_tag(
        bucket_key(policy_with_key("client_address"), subject_named("ann"))
    ) == hash_tag(bucket_key(policy_with_key("principal"), anonymous))


def test_caller_without_the_header_has_its_own_bucket() -> None:
    """A missing header falls back to the caller; an empty one is a value like another."""
    policy = policy_with_key("header:x-tenant")
    absent = bucket_key(policy, subject_named("ann"))
    assert absent != bucket_key(policy, subject_named("bob"))
    empty = Subject("192.0.2.1", Principal("ann"), headers={"x-tenant": ""})
    other = Subject("192.0.2.1", Principal("bob"), headers={"x-tenant": ""})
    assert absent != bucket_key(policy, empty) == bucket_key(policy, other)


def test_header_cannot_name_somebody_elses_bucket() -> None:
    """A header that spells a principal's own component is still a header."""
    policy = policy_with_key("header:x-tenant")
    forged = Subject(headers={"x-tenant": "principal\0ann"})
    assert bucket_key(policy, forged) != bucket_key(policy, subject_named("ann"))


def test_global_key_is_one_bucket_a_policy() -> None:
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
def test_components_cannot_be_confused(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Two lists of components are one key only if they are equal."""
    policy = policy_with_key("route", "header:x-a", "header:x-b")
    keys = [
        bucket_key(policy, Subject(route=route, headers={"x-a": a, "x-b": b}))
        for route, a, b in (one, other)
    ]
    assert (keys[0] == keys[1]) is (one == other)


def test_percentile_is_stable_and_even() -> None:
    """Each key has one number from 0 to 99, under every secret, and all numbers occur."""
    policy = policy_with_key("principal", "route")
    found = [
        KEY_SCHEME.rollout_percentile(policy, subject_named(f"caller{number}"))
        for number in range(2_000)
    ]
    assert set(found) == set(range(100))
    assert found[0] == KeyScheme().rollout_percentile(policy, subject_named("caller0"))


def test_fleet_has_keys_of_its_own_in_one_slot() -> None:
    """The keys of the heartbeat and of the audit share a slot, and no policy can name them."""
    keys = KeyScheme(prefix="mine")
    assert (keys.replicas_key, keys.epoch_key) == ("mine1:{fleet}:replicas", "mine1:{fleet}:epoch")
    assert keys.reports_key == "mine1:{fleet}:statements"
    assert keys.auditors_key == "mine1:{fleet}:auditors"


@pytest.mark.parametrize("parts", [["principal"], ["route", "principal"], ["global"]])
def test_a_key_tells_its_parts(parts: list[str]) -> None:
    """Policy, limit and whom it is kept per, whatever the prefix; equal callers are equal there."""
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


def test_short_secret_is_refused() -> None:
    """A secret that could be guessed is refused."""
    with pytest.raises(ConfigError, match="at least 16 bytes"):
        KeyScheme(SECRET[:15])


@pytest.mark.parametrize("prefix", ["", "x" * 33, "a{b", "a}b", "a b", "a\nb", "a\rb"])
def test_prefix_that_breaks_keys_is_refused(prefix: str) -> None:
    """A prefix with braces would move the hash tag; an empty or a long one is refused too."""
    with pytest.raises(ConfigError, match="key prefix"):
        KeyScheme(prefix=prefix)


def test_what_is_long_has_the_same_name_kept_or_not() -> None:
    """Long texts, which clients can send, are hashed each time, and to the same."""
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

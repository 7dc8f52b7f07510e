"""Keys name buckets without naming anybody, in a bounded length, and never two as one."""

import re
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit.core.keys import KeyScheme, caller_of, limit_of, policy_of
from fleetlimit.core.policy import KeyPart, Policy
from fleetlimit.core.quota import rate_quota
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.errors import ConfigError

QUOTAS = (rate_quota("5/minute"), rate_quota("1000/day"))
SECRET = b"0123456789abcdef"
KEYS = KeyScheme(SECRET)


def keyed(*parts: str, name: str = "exports") -> Policy:
    """Return a policy with this key."""
    return Policy(name, QUOTAS, key=tuple(KeyPart.parse(part) for part in parts))


def bucket(policy: Policy, subject: Subject, keys: KeyScheme = KEYS) -> str:
    """Return the key of the policy's first limit."""
    return keys.buckets(policy, subject, QUOTAS)[0]


def named(name: str, *, route: str = "GET /a") -> Subject:
    """Return a subject with a verified identity."""
    return Subject("192.0.2.1", Principal(name), route)


def tag(key: str) -> str:
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
    first, second = KEYS.buckets(keyed("principal"), named("ann"), QUOTAS)
    assert re.fullmatch(r"fl1:\{[\w-]{16}\}:exports:tb60", first)
    assert second == first.replace("tb60", "tb86400")


@pytest.mark.parametrize("parts", EVERY_KEY)
@pytest.mark.parametrize("keys", [KEYS, KeyScheme()], ids=["keyed", "plain"])
def test_no_identity_is_in_a_key(keys: KeyScheme, parts: list[str]) -> None:
    """Neither principal, address nor header is written in a key in clear."""
    subject = Subject("192.0.2.77", Principal("ann@example.org"), "GET /a", {"x-tenant": "acme"})
    for secret in ("ann", "example", "192.0", ".77", "acme"):
        assert secret not in bucket(keyed(*parts), subject, keys)


@pytest.mark.parametrize("parts", EVERY_KEY)
def test_key_of_an_endless_identity_is_bounded(parts: list[str]) -> None:
    """A client that sends 64 KB of identity makes no longer key than any other."""
    long = "\N{PILE OF POO}\0" * 13_000
    subject = Subject(long, Principal(long), long, {"x-tenant": long})
    policy = keyed(*parts, name="p" * 64)
    keys = KeyScheme(SECRET, prefix="x" * 32)
    assert len(bucket(policy, subject, keys)) <= 160
    assert len(bucket(policy, subject, keys)) == len(bucket(policy, named("a"), keys))


def test_text_that_is_no_text_has_a_key() -> None:
    """A header with a lone surrogate, as some servers decode one, has a bucket of its own."""
    assert bucket(keyed("principal"), named("\udcff")) != bucket(keyed("principal"), named("?"))


def test_secret_changes_every_hash() -> None:
    """Keys under two secrets, or none, have nothing in common; under one they are equal."""
    schemes = [KEYS, KeyScheme(b"fedcba9876543210"), KeyScheme()]
    found = [bucket(keyed("principal", "route"), named("ann"), keys) for keys in schemes]
    for one, other in combinations(found, 2):
        assert tag(one) != tag(other)
        assert one.rpartition(":")[2] != other.rpartition(":")[2]
    assert bucket(keyed("principal"), named("ann"), KeyScheme(SECRET)) == bucket(
        keyed("principal"), named("ann")
    )


def test_two_identities_have_two_buckets() -> None:
    """No two clients share a bucket (fastapi-limiter #80, PyrateLimiter #238)."""
    subjects = [
        named("ann"),
        named("bob"),
        named("192.0.2.1"),
        Subject("192.0.2.1"),
        Subject("192.0.2.2"),
    ]
    assert len({bucket(keyed("principal"), each) for each in subjects}) == len(subjects)


def test_one_identity_has_one_bucket_behind_every_door() -> None:
    """A caller keeps its bucket whatever verified it, from any address and in any tier."""
    doors = [
        Subject("192.0.2.1", Principal("ann", "pro", "jwt")),
        Subject("192.0.2.2", Principal("ann", "free", "api_key")),
    ]
    assert len({bucket(keyed("principal"), each) for each in doors}) == 1


def test_caller_meets_all_its_policies_in_one_slot() -> None:
    """Policies per principal, and per principal and more, share a slot; two callers do not."""
    ann = named("ann")
    alone, route = bucket(keyed("principal"), ann), bucket(keyed("principal", "route"), ann)
    assert tag(alone) == tag(route)
    assert alone != route
    assert tag(bucket(keyed("principal"), named("bob"))) != tag(alone)


def test_address_is_one_slot_with_and_without_a_principal() -> None:
    """A policy per address meets the buckets of the address's anonymous callers."""
    anonymous = Subject("192.0.2.1")
    assert tag(bucket(keyed("client_address"), named("ann"))) == tag(
        bucket(keyed("principal"), anonymous)
    )


def test_caller_without_the_header_has_its_own_bucket() -> None:
    """A missing header falls back to the caller; an empty one is a value like another."""
    policy = keyed("header:x-tenant")
    absent = bucket(policy, named("ann"))
    assert absent != bucket(policy, named("bob"))
    empty = Subject("192.0.2.1", Principal("ann"), headers={"x-tenant": ""})
    other = Subject("192.0.2.1", Principal("bob"), headers={"x-tenant": ""})
    assert absent != bucket(policy, empty) == bucket(policy, other)


def test_header_cannot_name_somebody_elses_bucket() -> None:
    """A header that spells a principal's own component is still a header."""
    policy = keyed("header:x-tenant")
    forged = Subject(headers={"x-tenant": "principal\0ann"})
    assert bucket(policy, forged) != bucket(policy, named("ann"))


def test_global_key_is_one_bucket_a_policy() -> None:
    """All callers share a global policy's bucket, and two such policies share none."""
    assert bucket(keyed("global"), named("ann")) == bucket(keyed("global"), named("bob"))
    other = keyed("global", name="other")
    assert tag(bucket(keyed("global"), named("ann"))) != tag(bucket(other, named("ann")))


TEXT = st.text(st.sampled_from("a\0\1\2"), max_size=4)


@given(
    one=st.tuples(TEXT, TEXT, TEXT),
    other=st.tuples(TEXT, TEXT, TEXT),
)
def test_components_cannot_be_confused(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    """Two lists of components are one key only if they are equal."""
    policy = keyed("route", "header:x-a", "header:x-b")
    keys = [
        bucket(policy, Subject(route=route, headers={"x-a": a, "x-b": b}))
        for route, a, b in (one, other)
    ]
    assert (keys[0] == keys[1]) is (one == other)


def test_percentile_is_stable_and_even() -> None:
    """Each key has one number from 0 to 99, under every secret, and all numbers occur."""
    policy = keyed("principal", "route")
    found = [KEYS.percentile(policy, named(f"caller{number}")) for number in range(2_000)]
    assert set(found) == set(range(100))
    assert found[0] == KeyScheme().percentile(policy, named("caller0"))


def test_fleet_has_keys_of_its_own_in_one_slot() -> None:
    """The keys of the heartbeat and of the audit share a slot, and no policy can name them."""
    keys = KeyScheme(prefix="mine")
    assert (keys.replicas, keys.epoch) == ("mine1:{fleet}:replicas", "mine1:{fleet}:epoch")
    assert keys.statements == "mine1:{fleet}:statements"
    assert keys.auditors == "mine1:{fleet}:auditors"


@pytest.mark.parametrize("parts", [["principal"], ["route", "principal"], ["global"]])
def test_a_key_tells_its_parts(parts: list[str]) -> None:
    """Policy, limit and whom it is kept per, whatever the prefix; equal callers are equal there."""
    policy, keys = keyed(*parts, name="a.b/c-d"), KeyScheme(SECRET, prefix="a:b")
    minute, day = keys.buckets(policy, named("alice"), QUOTAS)
    assert [policy_of(key) for key in (minute, day)] == ["a.b/c-d"] * 2
    assert [limit_of(key) for key in (minute, day)] == ["tb60", "tb86400"]
    assert caller_of(minute) == caller_of(day) == caller_of(bucket(policy, named("alice")))
    assert len(caller_of(minute)) == 16 + 17 * (len(parts) - 1)
    if parts != ["global"]:
        assert caller_of(minute) != caller_of(bucket(policy, named("bob")))


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
        assert keys.caller(subject) == keys.caller(subject) == keys.hash(f"p\0{subject.identity}")
    assert keys._kept.cache_info().currsize == 1
    assert keys._named.cache_info().currsize == 1

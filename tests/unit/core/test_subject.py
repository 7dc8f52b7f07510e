"""Subjects: the identity is the principal's name, or else the address."""

from fleetlimit.core.subject import UNMATCHED_ROUTE, UNVERIFIED_TIER, Principal, Subject


def test_subject_identity_is_the_principal() -> None:
    """A verified caller is identified by name, with its tier, from every address."""
    subject = Subject("192.0.2.1", Principal("ann", "pro", "jwt"))
    assert subject.identity == Subject("192.0.2.2", Principal("ann", "free")).identity
    assert subject.tier == "pro"


def test_subject_identity_is_the_address_without_a_principal() -> None:
    """A principal's name cannot spell an address."""
    subject = Subject("ann")
    assert subject.identity != Subject(principal=Principal("ann")).identity
    assert subject.identity != Subject("bob").identity
    assert (subject.tier, subject.route) == ("", UNMATCHED_ROUTE)


def test_tier_of_an_unverified_caller_is_unknown() -> None:
    """A false credential gives no tier, unless another credential verifies."""
    assert Subject("ann", unverified=True).tier == UNVERIFIED_TIER
    assert Subject("ann", Principal("ann", "pro"), unverified=True).tier == "pro"
    assert Subject("ann", unverified=True).identity == Subject("ann").identity

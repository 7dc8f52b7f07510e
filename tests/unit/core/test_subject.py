"""A request is a principal's, or else an address's; the two never meet."""

from fleetlimit.core.subject import UNMATCHED_ROUTE, Principal, Subject


def test_principal_is_the_identity() -> None:
    """A verified caller is its name, with its tier, wherever it calls from."""
    subject = Subject("192.0.2.1", Principal("ann", "pro", "jwt"))
    assert subject.identity == Subject("192.0.2.2", Principal("ann", "free")).identity
    assert subject.tier == "pro"


def test_address_is_the_identity_without_a_principal() -> None:
    """An anonymous caller is its address, without a tier; a principal cannot spell it."""
    subject = Subject("ann")
    assert subject.identity != Subject(principal=Principal("ann")).identity
    assert subject.identity != Subject("bob").identity
    assert (subject.tier, subject.route) == ("", UNMATCHED_ROUTE)

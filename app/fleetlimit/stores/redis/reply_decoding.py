"""Replies of the scripts, decoded.

The functions raise `TypeError`, `ValueError` or `AttributeError` for an invalid reply.
"""

from functools import reduce
from operator import or_
from typing import Any

from fleetlimit.core.decision import BucketStatus
from fleetlimit.errors import StoreError
from fleetlimit.limiter.store_replies import AcquireResult, HeartbeatReply
from fleetlimit.stores.redis.errors import to_store_error
from fleetlimit.stores.redis.scripts import FIELDS_PER_CHARGE

# `|` raises TypeError unless all values are integers, and the result is negative if one of them is.


def decode_single(reply: list[int]) -> AcquireResult:
    """Return the result for a single charge, the most frequent one."""
    now_us, spent, fits, remaining, retry_us, next_us, reset_us = reply
    # The store's time is last, because it alone takes the slower operation for large integers.
    if spent | fits | remaining | retry_us | next_us | reset_us | now_us < 0:
        raise _negative(reply)
    status = BucketStatus(fits == 1, remaining, retry_us, next_us, reset_us)
    return AcquireResult(now_us, (status,), spent == 1)


def decode_acquired(charges: int, reply: list[int]) -> AcquireResult:
    """Return the result for a number of charges."""
    if reduce(or_, reply) < 0:
        raise _negative(reply)
    now_us, spent, *fields = reply
    statuses = tuple(
        BucketStatus(bool(allowed), remaining, retry_us, next_us, reset_us)
        for allowed, remaining, retry_us, next_us, reset_us in (
            fields[at : at + FIELDS_PER_CHARGE]
            for at in range(0, charges * FIELDS_PER_CHARGE, FIELDS_PER_CHARGE)
        )
    )
    return AcquireResult(now_us, statuses, bool(spent))


def _negative(reply: list[int]) -> ValueError:
    return ValueError(f"{reply!r:.100} has a negative number")


def decode_count(reply: int) -> int:
    """Return a whole number from 0."""
    if type(reply) is not int or reply < 0:
        raise ValueError(f"{reply!r:.100} is not a whole number from 0")
    return reply


def decode_adjusted(keys: list[str], reply: list[Any]) -> tuple[int, dict[str, StoreError]]:
    """Return the store time of adjustments, and the error of each key that has failed."""
    now_us, *results = reply
    errors = {
        key: to_store_error(result)
        for key, result in zip(keys, results, strict=True)
        if isinstance(result, Exception) or decode_count(result)
    }
    return decode_count(now_us), errors


def decode_heartbeat(reply: list[Any]) -> HeartbeatReply:
    """Return the reply to a heartbeat."""
    replicas, epoch, server, fingerprints = reply
    return HeartbeatReply(
        decode_count(replicas),
        epoch.decode(),
        server.decode(),
        decode_fingerprints(fingerprints),
    )


def decode_fingerprints(reply: list[bytes]) -> frozenset[str]:
    """Return fingerprints of key secrets."""
    return frozenset(each.decode() for each in reply)

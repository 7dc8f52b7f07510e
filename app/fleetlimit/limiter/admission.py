"""Admission: decides a plan by the denial cache, then the store, then the fallback."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from fleetlimit.core.charge import ENFORCED_GROUP
from fleetlimit.core.decision import DENIED, EXEMPT, Decision, Source
from fleetlimit.core.quota import SECOND_US
from fleetlimit.core.subject import Subject
from fleetlimit.errors import StoreError
from fleetlimit.limiter.audit.sample import UsageSample
from fleetlimit.limiter.denial_cache import DenialCache
from fleetlimit.limiter.events import CheckCancelled, CheckDecided, Event
from fleetlimit.limiter.fallback import Fallback, unchecked_result
from fleetlimit.limiter.membership import ReplicaMembership
from fleetlimit.limiter.plan import Plan, with_exempt
from fleetlimit.limiter.ports import Clock, KeysFailed
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.limiter.store_gateway import StoreGateway
from fleetlimit.limiter.store_replies import AcquireResult

_STORE: Final = Source.STORE


class Admission:
    """Decides plans, and emits every decision.

    Args:
        gateway: Spends from the shared store.
        denial_cache: Denied charges.
        fallback: Decides while the store is unavailable.
        membership: Number of replicas that share a limit in the fallback.
        sample: Records usage for the audit.
        clock: Clock of this process.
        emit: Receives an event for every decision.
    """

    def __init__(
        self,
        gateway: StoreGateway,
        *,
        denial_cache: DenialCache,
        fallback: Fallback,
        membership: ReplicaMembership,
        sample: UsageSample,
        clock: Clock,
        emit: Callable[[Event], None],
    ) -> None:
        self._gateway = gateway
        self._denial_cache = denial_cache
        self._fallback = fallback
        self._membership = membership
        self._sample = sample
        self._clock = clock
        self._emit = emit

    async def admit(
        self,
        plan: Plan,
        subject: Subject,
        mono_started_at_us: int,
        *,
        is_attempt: bool = False,
    ) -> Reservation:
        """Decide a plan, and emit the decision.

        Args:
            plan: Charges of the check.
            subject: The caller and the route.
            mono_started_at_us: Monotonic microseconds when the check began.
            is_attempt: Whether the check may be repeated after a denial, which is then not emitted.
        """
        if plan.charges:
            decided = self._denial_cache.lookup(plan, mono_started_at_us)
            if decided is not None and self._gateway.holds(plan):
                # The store denied another check of a bucket of which units are held here.
                decided = None
        else:
            decided = decide_without_store(plan)
        if decided is not None:
            reservation = Reservation(decided, plan, None, self._gateway.adjust)
        else:
            # The fallback runs after the handler: in a compiled coroutine, an exception whose
            # handler awaits would stay the current one of the event loop.
            failed: Collection[str] | None = None
            try:
                try:
                    reply = await self._gateway.acquire(plan)
                except StoreError as error:
                    failed = _failed_keys(error, plan)
                if failed is None:
                    reservation = self._decide_by_reply(plan, reply)
                else:
                    reservation = await self._decide_partly(plan, failed)
            except asyncio.CancelledError:
                # The store may have spent the units, which no decision will report.
                policies = tuple(each.policy.name for each in plan.policy_plans)
                self._emit(CheckCancelled(policies, plan.subject_hash, subject.route))
                raise
        if plan.exempt:
            reservation.decision = with_exempt(reservation.decision, plan)
        seconds = (self._clock.monotonic_us() - mono_started_at_us) / SECOND_US
        decision, anonymous = reservation.decision, subject.principal is None
        if is_attempt and not decision.allowed:
            return reservation
        self._emit(
            CheckDecided(
                decision, plan.subject_hash, anonymous, subject.tier, subject.route, seconds
            )
        )
        return reservation

    def refuse(self, plan: Plan, subject: Subject, decision: Decision) -> Reservation:
        """Emit a denial after attempts that were not emitted, and return its reservation.

        Args:
            plan: Charges of the check.
            subject: The caller and the route.
            decision: The denial.
        """
        anonymous = subject.principal is None
        self._emit(
            CheckDecided(decision, plan.subject_hash, anonymous, subject.tier, subject.route, 0.0)
        )
        return Reservation(decision, plan, None, self._gateway.adjust)

    async def _decide_partly(self, plan: Plan, failed: Collection[str]) -> Reservation:
        """Decide the policies of failed servers of a Cluster locally, and the others in the store.

        Args:
            plan: Charges of the check.
            failed: Keys of the buckets on the failed servers.
        """
        failed_plans = [
            each
            for each in plan.policy_plans
            if any(charge.key in failed for charge in plan.charges_of(each))
        ]
        other_plans = [each for each in plan.policy_plans if each not in failed_plans]
        others = plan.part(other_plans)
        replicas = self._membership.replicas
        if not others.charges:
            return await self._fallback.decide(plan, replicas)
        # Before the store: units of this process are refunded at once if the store denies.
        local = await self._fallback.decide(plan.part(failed_plans), replicas)
        if not local.decision.allowed:
            results = (*local.decision.results, *map(unchecked_result, other_plans))
            local.decision = replace(local.decision, results=results)
            return local
        all_failed: Collection[str] | None = None
        try:
            reply = await self._gateway.acquire(others)
        except StoreError as error:
            all_failed = {*failed, *_failed_keys(error, others)}
        except asyncio.CancelledError:
            await local.withdraw()
            raise
        if all_failed is not None:
            await local.withdraw()
            return await self._decide_partly(plan, all_failed)
        if not reply.spent:
            # Before the decision, which states the units that are left in the end.
            await local.withdraw()
        return self._decide_by_reply(others, reply, local)

    def _decide_by_reply(
        self, plan: Plan, reply: AcquireResult, local: Reservation | None = None
    ) -> Reservation:
        """Decide by the store's reply.

        Args:
            plan: Charges that the store decided.
            reply: The reply.
            local: Part of the policies that were admitted without the store.
        """
        self._sample.record(plan.charges, reply)
        decision = plan.decision(reply.statuses, source=reply.source, spent=reply.spent)
        if local is not None and local.decision.results:
            # The source is the one of the part without the store, unless the store denied: a check
            # that is partly degraded counts as degraded.
            source = local.decision.source if decision.allowed else _STORE
            results = (*decision.results, *local.decision.results)
            decision = replace(decision, source=source, results=results)
        if decision.outcome is DENIED:
            for charge, status in zip(plan.charges, reply.statuses, strict=True):
                if charge.group == ENFORCED_GROUP and not status.allowed:
                    self._denial_cache.add(charge, status)
        reservation = Reservation(decision, plan, reply, self._gateway.adjust, local)
        if plan.has_leases:
            self._gateway.keep_leases(reservation)
        return reservation


def _failed_keys(error: StoreError, plan: Plan) -> Collection[str]:
    """Return the keys of the buckets whose servers failed: in a Cluster some of them, else all."""
    if isinstance(error, KeysFailed):
        return error.errors.keys()
    return [each.key for each in plan.charges]


def decide_without_store(plan: Plan) -> Decision:
    """Decide a plan without charges: no policy applies, or only shadow ones that never fit."""
    return plan.decision((), source=Source.NONE, spent=False) if plan.policy_plans else EXEMPT

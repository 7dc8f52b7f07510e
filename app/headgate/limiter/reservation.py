"""What a check has spent, until its owner says what it really cost."""

import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from headgate.core.charge import Charge, Settlement
from headgate.core.decision import Decision
from headgate.core.errors import CostError

Settle = Callable[[Sequence[Settlement]], Awaitable[object]]


class Reservation:
    """Units spent for a request, and leases held for it.

    Used as an async context manager it gives the leases back at the end; the cost stays spent
    unless `commit` or `refund` said otherwise.

    Args:
        decision: What was decided.
        spent: The charges that were spent, by policy; it is the reservation's from then on.
        taken_us: When, on the clock of the store that they were spent from.
        settle: How to correct them; it never raises.
        leases: Those of the charges that are leases.
    """

    __slots__ = (
        *("_open", "_settle", "_taken_us", "decision", "leases", "policies"),
        "__weakref__",  # of those that hold leases, who keeps them alive
    )

    def __init__(
        self,
        decision: Decision,
        spent: dict[str, Sequence[Charge]],
        taken_us: int,
        settle: Settle,
        leases: Sequence[Charge] = (),
    ) -> None:
        self.decision = decision
        self.policies = tuple(spent)
        self.leases = leases
        self._open = spent
        self._taken_us = taken_us
        self._settle = settle

    def under(self, policy: str) -> Self:
        """Return the part of one policy, to be corrected apart; leases stay with the whole."""
        if not self.leases and self.policies == (policy,):
            return self
        # The copy shares what is open, so that the whole and its parts give nothing back twice.
        part = copy.copy(self)
        part.policies = (policy,)
        part.leases = ()
        return part

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    async def commit(self, actual: int) -> None:
        """Say what the request really cost; the difference is given back, or spent as well.

        What is spent beyond the reservation may exceed the limit by as much; it then delays those
        who come after. Only the first of `commit` and `refund` counts, under each policy.

        Args:
            actual: The real cost, at least 0.

        Raises:
            CostError: The cost is negative.
        """
        if actual < 0:
            raise CostError(f"a cost cannot be negative: {actual}")
        spent = [each for policy in self.policies for each in self._open.pop(policy, ())]
        await self._finish(
            [
                each.correction(change, self._taken_us)
                for each in spent
                if not each.lease and (change := actual * each.quota.cost - each.units)
            ]
        )

    async def refund(self) -> None:
        """Give everything back."""
        await self.commit(0)

    async def release(self) -> None:
        """Give back the leases, because the work is done; the cost stays spent."""
        await self._finish([])

    async def _finish(self, corrections: list[Settlement]) -> None:
        released, self.leases = self.leases, ()
        corrections += [each.correction(-each.units, self._taken_us) for each in released]
        if corrections:
            await self._settle(corrections)

    def renewals(self) -> list[Settlement]:
        """Return what keeps the leases alive."""
        return [each.correction(0, self._taken_us) for each in self.leases]

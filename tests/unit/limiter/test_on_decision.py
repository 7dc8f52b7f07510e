"""Who asks for a decision is told of it once, by whoever has it first."""

from collections.abc import Sequence

import pytest

from fleetlimit.core.charge import Charge
from fleetlimit.core.policy import PolicySet
from fleetlimit.core.subject import Principal, Subject
from fleetlimit.limiter.events import Decided
from fleetlimit.limiter.limiter import Limiter
from fleetlimit.limiter.ports import Heard, Taken
from fleetlimit.limiter.reservation import Reservation
from fleetlimit.stores.memory import MemoryStore
from support.limiter import Recorder, rate

ANN = Subject(principal=Principal("ann"))


class Early(MemoryStore):
    """A store that tells its answer before whoever waits goes on."""

    async def take(
        self, charges: Sequence[Charge], heard: Heard | None = None, *, commit: bool = True
    ) -> Taken:
        """Decide, and say so at once."""
        taken = await super().take(charges, commit=commit)
        if heard is not None:
            heard(taken)
        return taken


@pytest.mark.parametrize("store", [MemoryStore, Early])
async def test_each_decision_is_told_once(store: type[MemoryStore]) -> None:
    """From the store, or remembered: the one who asks and the observers hear of it once."""
    policy, told, heard = rate("a", "1/minute"), Recorder(), list[Reservation]()
    limiter = Limiter(store(), local=MemoryStore(), observers=[told])
    await limiter.start()
    limiter.policies.replace(PolicySet((policy,)))
    found = [await limiter.admit([(policy, 1)], ANN, heard.append) for _ in range(3)]
    await limiter.aclose()
    assert [each.decision.source for each in found] == ["store", "store", "cache"]
    assert heard == found
    assert [each.decision for each in told.of(Decided)] == [each.decision for each in found]

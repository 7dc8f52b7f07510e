"""What a route's dependency may ask for: a policy, at a cost."""

from typing import Protocol, runtime_checkable

from starlette.requests import HTTPConnection

from headgate.core.policy import Policy
from headgate.web.gate import Gate


@runtime_checkable
class Ask(Protocol):
    """What asks for a policy at a cost: a dependency of the route."""

    def policy(self, gate: Gate) -> Policy:
        """Return the policy that is asked for."""
        ...

    async def cost_of(self, connection: HTTPConnection) -> int:
        """Return what the request costs under it."""
        ...

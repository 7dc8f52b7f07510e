"""Bucket events: what invalidates a replica's caches about buckets.

Each cache subscribes when it is made. `Limiter.reset`, `StoreGateway.adjust` and
`ActivePolicies.replace` emit without naming the caches, so a new cache cannot be forgotten there.
"""

from collections.abc import Callable, Sequence

OnKeys = Callable[[Sequence[str]], None]
"""Callback that receives keys of buckets."""


class BucketEvents:
    """Events of buckets and their listeners, which run at once, in the order of subscription."""

    def __init__(self) -> None:
        self._on_reset: list[OnKeys] = []
        self._on_adjusted: list[OnKeys] = []
        self._on_refund_lost: list[OnKeys] = []
        self._on_policies_replaced: list[Callable[[], None]] = []

    def subscribe(
        self,
        *,
        on_reset: OnKeys | None = None,
        on_adjusted: OnKeys | None = None,
        on_refund_lost: OnKeys | None = None,
        on_policies_replaced: Callable[[], None] | None = None,
    ) -> None:
        """Call listeners from now on.

        Args:
            on_reset: The buckets were deleted, or may have been: the store's reply was lost.
            on_adjusted: Charges of the buckets were corrected, so that units may be available.
            on_refund_lost: The reply to a refund of the buckets was lost: it may have been made.
            on_policies_replaced: Another policy set is active.
        """
        self._on_reset += [on_reset] if on_reset else []
        self._on_adjusted += [on_adjusted] if on_adjusted else []
        self._on_refund_lost += [on_refund_lost] if on_refund_lost else []
        self._on_policies_replaced += [on_policies_replaced] if on_policies_replaced else []

    def emit_reset(self, keys: Sequence[str]) -> None:
        """Report that buckets were deleted. Emit it after the reply of the store, not before."""
        for listener in self._on_reset:
            listener(keys)

    def emit_adjusted(self, keys: Sequence[str]) -> None:
        """Report that charges were corrected. Emit it after the reply of the store, not before."""
        for listener in self._on_adjusted:
            listener(keys)

    def emit_refund_lost(self, keys: Sequence[str]) -> None:
        """Report buckets of refunds whose reply was lost."""
        for listener in self._on_refund_lost:
            listener(keys)

    def emit_policies_replaced(self) -> None:
        """Report that another policy set is active."""
        for listener in self._on_policies_replaced:
            listener()

"""The decorator `limited` of functions."""

import functools
from typing import Any

import pytest

from fleetlimit import (
    ConfigError,
    Fleetlimit,
    Policy,
    PolicySet,
    RateLimitExceeded,
    limited,
)
from fleetlimit.core.quota import concurrency_quota

POLICIES = PolicySet(
    [
        Policy("sms", "2/hour"),
        Policy("total", "3/hour", key="global"),
        Policy("slots", concurrency_quota(1, lease=30), key="global"),
        Policy("logins", "1/minute", count="failure"),
    ]
)


async def test_async_function_is_limited_by_its_arguments() -> None:
    """The caller and the cost are made from the arguments of the call."""
    async with Fleetlimit(policies=POLICIES) as limits:

        @limits.limited(
            "sms", "total", principal=lambda phone, _text: phone, cost=lambda _p, text: len(text)
        )
        async def send(phone: str, text: str) -> str:
            """Send a text."""
            return f"{phone}: {text}"

        assert await send("1", "a") == "1: a"
        assert await send("1", "b") == "1: b"
        with pytest.raises(RateLimitExceeded):
            await send("1", "c")
        assert await send("2", "d") == "2: d"
        with pytest.raises(RateLimitExceeded):
            await send("3", "e")
        assert (send.__name__, send.__doc__) == ("send", "Send a text.")


def test_function_that_is_not_async_is_limited() -> None:
    """A call of a function blocks until it is decided, in a thread that the first one starts."""
    limits = Fleetlimit(policies=POLICIES)

    @limits.limited("sms", key=lambda phone: phone)
    def send(phone: str) -> str:
        return phone

    assert [send("1"), send("1"), send("2")] == ["1", "1", "2"]
    with pytest.raises(RateLimitExceeded):
        send("1")
    limits.sync().close()
    send.__wrapped__("1")  # type: ignore[attr-defined]  # of functools.wraps


async def test_function_that_is_not_async_is_an_error_in_an_event_loop() -> None:
    """It would block the event loop."""
    async with Fleetlimit(policies=POLICIES) as limits:

        @limits.limited("total")
        def send() -> None:
            pass

        with pytest.raises(ConfigError, match="would block the event loop"):
            send()


async def test_concurrency_unit_is_held_during_the_call() -> None:
    """A unit is released when the function returns or raises."""
    async with Fleetlimit(policies=POLICIES) as limits:

        @limits.limited("slots")
        async def work(*, inner: bool) -> None:
            if inner:
                await work(inner=False)

        with pytest.raises(RateLimitExceeded):
            await work(inner=True)
        await work(inner=False)


async def test_method_is_limited() -> None:
    """The first argument of a method is its object."""
    async with Fleetlimit(policies=POLICIES) as limits:

        class Phone:
            number = "1"

            @limits.limited("sms", principal=lambda self: self.number, tier="pro")
            async def ring(self) -> str:
                return self.number

        assert [await Phone().ring(), await Phone().ring()] == ["1", "1"]
        with pytest.raises(RateLimitExceeded):
            await Phone().ring()


async def test_decorator_without_a_limiter_uses_the_one_that_runs() -> None:
    """A module decorates its functions before the limiter is made."""

    @limited("total")
    async def send() -> None:
        pass

    with pytest.raises(ConfigError, match="no Fleetlimit runs in this process"):
        await send()
    async with Fleetlimit(policies=POLICIES):
        await send()
        async with Fleetlimit(policies=POLICIES) as other:
            with pytest.raises(ConfigError, match=r"2 Fleetlimits run .* limits=limits"):
                await send()
            named = limited("total", limits=other)(send.__wrapped__)  # type: ignore[attr-defined]
            await named()
    with pytest.raises(ConfigError, match="no Fleetlimit runs"):
        await send()


def _text(phone: str) -> str:
    return phone


async def _generator(phone: str) -> Any:
    yield phone


@pytest.mark.parametrize(
    ("arguments", "options", "function", "message"),
    [
        ((), {}, _text, r'write @limited\("name"\)'),
        (("sms",), {"timeout": -1}, _text, "is not a time to wait"),
        (("sms",), {}, _generator, "write `await limits.check"),
        (("sms",), {}, int, "is for functions"),
        (("sms",), {}, 5, "is for functions"),
        (("sms",), {"key": "phone"}, _text, "write key=lambda phone: phone"),
        (("sms",), {"principal": "phone"}, _text, "write principal=lambda phone: phone"),
    ],
)
def test_decorator_that_cannot_limit_is_an_error(
    arguments: Any, options: Any, function: Any, message: str
) -> None:
    """A mistake is an error where the function is defined."""
    limits = Fleetlimit(policies=POLICIES)
    with pytest.raises(ConfigError, match=message):
        limits.limited(*arguments, **options)(function)


def test_decorator_without_parentheses_is_an_error() -> None:
    """`@limits.limited` alone has no policy."""
    limits: Any = Fleetlimit(policies=POLICIES)
    with pytest.raises(ConfigError, match=r'write @limited\("name"\)'):
        limits.limited(_text)


async def test_call_that_cannot_be_limited_is_an_error() -> None:
    """A call whose caller is not known, or whose status no code sees, is not made."""
    calls: list[str] = []
    async with Fleetlimit(policies=POLICIES) as limits:

        async def work(name: str) -> None:
            calls.append(name)

        nothing: Any = lambda _: None  # noqa: E731 - the mistake
        for decorate, message in (
            (limits.limited("sms"), "write principal="),
            (limits.limited("sms", principal=nothing), "principal of @limited returned None"),
            (limits.limited("sms", key=nothing), "key of @limited returned None"),
            (limits.limited("logins", principal="a"), "counts by the status"),
            (limits.limited("other", principal="a"), "there is no policy 'other'"),
        ):
            with pytest.raises(ConfigError, match=message):
                await decorate(work)("x")
        partial = functools.partial(work, "y")
        await limits.limited("total")(partial)()
    assert calls == ["y"]

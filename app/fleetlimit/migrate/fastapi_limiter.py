"""Translator of fastapi-limiter: dependencies, the connection in the lifespan, and WebSockets.

Up to version 0.1.6 a limit has its numbers itself and counts in Redis; from 0.2 on it has a limiter
of pyrate-limiter, which counts in memory. https://github.com/long2ice/fastapi-limiter has both.
"""

import ast
from collections.abc import Iterator, Sequence
from typing import Final

from fleetlimit.migrate.app_setup import app_calls, enter_in_lifespan
from fleetlimit.migrate.rates import Rate, rate_of_milliseconds
from fleetlimit.migrate.result import Migration
from fleetlimit.migrate.slowapi_limits import Key, translate_key
from fleetlimit.migrate.source import Function, Source, argument, constant, text_constant

_LIMITERS: Final = frozenset({"fastapi_limiter.depends.RateLimiter"})
_SOCKET_LIMITERS: Final = frozenset({"fastapi_limiter.depends.WebSocketRateLimiter"})
_INIT: Final = "fastapi_limiter.FastAPILimiter.init"
_CLOSE: Final = "fastapi_limiter.FastAPILimiter.close"
_SKIP: Final = "fastapi_limiter.decorators.skip_limiter"
_MS: Final = {"milliseconds": 1, "seconds": 1_000, "minutes": 60_000, "hours": 3_600_000}
_DURATIONS: Final = {"SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000}


class FastapiLimiterTranslator:
    """Translator of the files that use fastapi-limiter.

    Args:
        sources: All files.
        migration: Result that gets notes; the sources get the edits.
        algorithm: Algorithm of the limits; empty for the default.
    """

    def __init__(self, sources: Sequence[Source], migration: Migration, algorithm: str) -> None:
        self._sources = sources
        self._migration = migration
        self._algorithm = algorithm
        self._key = Key("principal")
        self._key_name = ""

    def translate(self) -> None:
        """Edit the files."""
        for source in self._sources:
            for call in _calls(source, {_INIT}):
                self._read_init(source, call)
        for source in self._sources:
            for call in _calls(source, _LIMITERS):
                self._translate_limit(source, call)
            for call in _calls(source, _SOCKET_LIMITERS):
                self._note_socket(source, call)
            for function in source.functions():
                self._translate_skipped(source, function)
            for call in _calls(source, {_INIT}):
                self._replace_init(source, call)
            for call in _calls(source, {_CLOSE}):
                source.delete_statement(_statement(source, call))

    def _read_init(self, source: Source, call: ast.Call) -> None:
        identifier = argument(call, "identifier", 2)
        if identifier is not None:
            self._key = translate_key(source, identifier)
            self._key_name = self._key.function

    def _translate_limit(self, source: Source, call: ast.Call) -> None:
        rates = self._rates(source, call)
        if rates is None:
            self._by_hand(
                source,
                call,
                "the numbers are no constants, or allow nothing: write RateLimit(...) with a rate, "
                "such as 5/minute",
            )
            return
        if len(rates) != 1:
            self._by_hand(source, call, "several rates: write one Depends(RateLimit(...)) for each")
            return
        (rate,) = rates
        source.replace(call, f"RateLimit({self._arguments(source, call, rate)})")
        if rate.burst is not None:
            self._differ(
                source, call, "a rate has whole seconds, so the limit has an equal rate and a burst"
            )
        if argument(call, "callback", 6) is not None:
            self._by_hand(
                source,
                call,
                "callback: write Fleetlimit(on_rejected=...), which may change the response, or a "
                "handler for RateLimitExceeded",
            )
        if any(each.arg == "blocking" and constant(each.value) is True for each in call.keywords):
            self._by_hand(
                source, call, "blocking: write `await limits.acquire(...)`, which waits, in place"
            )

    def _arguments(self, source: Source, call: ast.Call, rate: Rate) -> str:
        burst = f", burst={rate.burst}" if rate.burst is not None else ""
        algorithm = f', algorithm="{self._algorithm}"' if self._algorithm and not burst else ""
        own = argument(call, "identifier", 5)
        key = translate_key(source, own) if own is not None else self._key
        if own is None and key.function and key.source is not source:
            self._by_hand(source, call, f"import the key function {key.function}")
        return f'"{rate.text}"{burst}{algorithm}{key.argument}'

    def _rates(self, source: Source, call: ast.Call) -> list[Rate] | None:
        """Return the rates of a limit of either version; None if they are no constants."""
        limiter = argument(call, "limiter")
        if limiter is None and call.args and not isinstance(call.args[0], ast.Constant):
            limiter = call.args[0]
        if limiter is not None:
            return _pyrate_rates(source, limiter)
        names = ("times", *_MS)
        values = {
            name: constant(node) if node is not None else (1 if name == "times" else 0)
            for position, name in enumerate(names)
            for node in [argument(call, name, position)]
        }
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        if len(numbers) != len(values) or any(each.arg is None for each in call.keywords):
            return None
        milliseconds = sum(numbers[name] * factor for name, factor in _MS.items())
        rate = rate_of_milliseconds(numbers["times"], milliseconds)
        return [rate] if rate is not None else None

    def _note_socket(self, source: Source, call: ast.Call) -> None:
        rates = self._rates(source, call) or []
        rate = rates[0].text if len(rates) == 1 else "5/minute"
        self._by_hand(
            source,
            call,
            "a limit on the messages of a WebSocket: write a policy, such as {name: messages, "
            f"limits: [{{rate: {rate}}}]}}, the parameter `caller: DepCaller`, and "
            '`await caller.check("messages")` for each message',
        )

    def _translate_skipped(self, source: Source, function: Function) -> None:
        for each in function.decorator_list:
            if source.full_name(each) == _SKIP:
                source.delete_decorator(each)
                self._by_hand(
                    source,
                    each,
                    "skip_limiter: write RateLimit(..., exempt=Exemption(routes=[...])) for the "
                    "limit of the router or the app, or move the limit to the other routes",
                )

    def _replace_init(self, source: Source, call: ast.Call) -> None:
        statement = _statement(source, call)
        function = _function_around(source, statement)
        store = self._store(source, call, function)
        limiter = f"Fleetlimit({store})"
        for name, text in {
            "http_callback": "write Fleetlimit(on_rejected=...), which may change the response",
            "ws_callback": "write Fleetlimit(on_rejected=...), which gets WebSockets, too",
            "prefix": "set FLEETLIMIT_KEY_PREFIX",
        }.items():
            if argument(call, name) is not None:
                self._by_hand(source, call, f"{name}: {text}")
        if function is not None and enter_in_lifespan(source, function, limiter):
            source.delete_statement(statement)
            return
        apps = [name for name, _ in app_calls(source)]
        self._by_hand(
            source,
            call,
            f"write FastAPI(lifespan={limiter}) for {apps[0] if apps else 'the app'}, or `async "
            f"with {limiter}(app): yield` in its lifespan, and remove this call; an app with a "
            "lifespan ignores on_event",
        )

    def _store(self, source: Source, call: ast.Call, function: Function | None) -> str:
        """Return the argument with the URL of the connection that a call passes."""
        node = argument(call, "redis", 0)
        if isinstance(node, ast.Await):
            node = node.value
        if isinstance(node, ast.Name):
            scopes: list[ast.AST] = [each for each in (function, source.tree) if each is not None]
            node = next(
                (value for scope in scopes for value in _assigned(scope, node.id)),
                node,
            )
        if isinstance(node, ast.Await):
            node = node.value
        if isinstance(node, ast.Call) and source.full_name(node.func).endswith("from_url"):
            url = argument(node, "url", 0)
            if url is not None:
                text = text_constant(url)
                return f'store="{text}"' if text is not None else f"store={source.code(url)}"
        self._by_hand(
            source,
            call,
            "the URL of the connection is not known: write Fleetlimit(store=...), or set "
            "FLEETLIMIT_STORE",
        )
        return ""

    def _by_hand(self, source: Source, node: ast.AST, text: str) -> None:
        self._migration.by_hand.append(source.note(node, text))

    def _differ(self, source: Source, node: ast.AST, text: str) -> None:
        self._migration.differences.append(source.note(node, text))


def _calls(source: Source, names: set[str] | frozenset[str]) -> Iterator[ast.Call]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and source.full_name(node.func) in names:
            yield node


def _statement(source: Source, node: ast.AST) -> ast.stmt:
    while not isinstance(node, ast.stmt):
        node = source.parents[node]
    return node


def _function_around(source: Source, node: ast.AST) -> Function | None:
    while node in source.parents:
        node = source.parents[node]
        if isinstance(node, Function):
            return node
    return None


def _assigned(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in map(ast.unparse, targets):
                yield node.value


def _pyrate_rates(source: Source, node: ast.expr) -> list[Rate] | None:
    """Return the rates of `Limiter(Rate(5, Duration.MINUTE))`; None if they are no constants."""
    if isinstance(node, ast.Name):
        node = next(_assigned(source.tree, node.id), node)
    if not isinstance(node, ast.Call) or source.full_name(node.func) != "pyrate_limiter.Limiter":
        return None
    given = node.args[:1] or [each.value for each in node.keywords if each.arg == "argument"]
    nodes = given[0].elts if given and isinstance(given[0], ast.List | ast.Tuple) else given
    rates = []
    for named in nodes:
        each = (
            next(_assigned(source.tree, named.id), named) if isinstance(named, ast.Name) else named
        )
        if not isinstance(each, ast.Call):
            return None
        limit, interval = argument(each, "limit", 0), argument(each, "interval", 1)
        number, milliseconds = constant(limit), _milliseconds(interval)
        if not isinstance(number, int) or milliseconds is None:
            return None
        rate = rate_of_milliseconds(number, milliseconds)
        if rate is None:
            return None
        rates.append(rate)
    return rates or None


def _milliseconds(node: ast.expr | None) -> int | None:
    """Return the time of `Duration.MINUTE`, of a number, or of their product."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Attribute):
        return _DURATIONS.get(node.attr)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = _milliseconds(node.left), _milliseconds(node.right)
        return left * right if left is not None and right is not None else None
    return None

"""`Limiter(...)` of slowapi: its default limits as policies, and a `Fleetlimit` in its place."""

import ast
import json
from collections.abc import Iterator, Sequence
from typing import Final

from fleetlimit.migrate.rates import Rate
from fleetlimit.migrate.result import FilePolicy, Migration
from fleetlimit.migrate.slowapi_limits import ALGORITHMS, LimiterSetup, rates_of, translate_key
from fleetlimit.migrate.source import Source, argument, text_constant

_LIMITERS = frozenset({"slowapi.Limiter", "slowapi.extension.Limiter"})
_SETTINGS = {
    "headers_enabled": "set FLEETLIMIT_HEADERS=x-ratelimit-epoch to keep the names of the fields",
    "storage_options": "write the options into the query of the store's URL",
    "in_memory_fallback": "on_store_error: local admits each replica's share of the same limits",
    "swallow_errors": "write on_store_error: allow in each policy, and RateLimit(on_store_error=)",
    "retry_after": "Retry-After is always a number of seconds",
    "key_prefix": "set FLEETLIMIT_KEY_PREFIX",
    "enabled": "a test switches limits off with the fixtures of fleetlimit.testing",
    "config_filename": "write the settings as FLEETLIMIT_ variables",
    "auto_check": "each limit is checked once for a request",
}
OTHER_USES: Final = {
    "limit": 'write `exports = RateLimit("5/minute")`, and dependencies=[Depends(exports)] on each '
    "route in place of the decorator",
    "shared_limit": 'write `search = RateLimit("5/minute", name="search")`, and '
    "dependencies=[Depends(search)] on each route in place of the decorator",
    "reset": "in a test, the limits of the fixture make_fleetlimit are unused; elsewhere write "
    'await fleetlimit.reset("policy", principal="name")',
    "enabled": "in a test, write fleetlimit.testing.unlimited()",
    "_inject_headers": "remove it: each response has the headers",
}
"""What to write for further attributes of a `Limiter`."""


def find_setups(source: Source, algorithm: str) -> Iterator[LimiterSetup]:
    """Yield the limiters that a file creates.

    Args:
        source: The file.
        algorithm: Algorithm of a limiter without a strategy; empty for the default.
    """
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        call = node.value
        if source.full_name(call.func) not in _LIMITERS:
            continue
        key = translate_key(source, argument(call, "key_func", 0))
        strategy = text_constant(argument(call, "strategy", 4))
        counting = ALGORITHMS.get(strategy, "") if strategy is not None else algorithm
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = source.full_name(target).rpartition(".")[2]
            yield LimiterSetup(source, name, call, key, counting)


def add_policies(
    setup: LimiterSetup, migration: Migration, *, exempt: Sequence[str], replaced: Sequence[str]
) -> None:
    """Add the policies of the limits that apply to all routes, and notes of other settings.

    Args:
        setup: The limiter.
        migration: The result.
        exempt: Templates of the routes that are exempt from all limits.
        replaced: Templates of the routes whose own limits replace the default limits.
    """
    source, call = setup.source, setup.call
    for name in sorted(_SETTINGS.keys() & {each.arg for each in call.keywords}):
        value = argument(call, name)
        if not isinstance(value, ast.Constant) or value.value not in {False, None, ""}:
            _by_hand(migration, source, value or call, f"{name}: {_SETTINGS[name]}")
    if any(each.arg is None for each in call.keywords):
        _by_hand(migration, source, call, "arguments from ** are not known: compare them")
    application = _list_of_rates(setup, migration, "application_limits", 2)
    default = _list_of_rates(setup, migration, "default_limits", 1)
    if (application or default) and migration.policies:
        _by_hand(
            migration,
            source,
            call,
            "a further limiter with limits for all routes: write a policy with a name of its own, "
            "and with a match of the routes that it is for",
        )
        return
    key = setup.key.part
    if (application or default) and not key:
        _by_hand(
            migration,
            source,
            call,
            "a policy file has no functions: make the key function the resolver of the caller, "
            "Fleetlimit(resolver=...), so that the part `principal` is what it returns",
        )
        key = "principal"
    if application:
        migration.policies.append(
            FilePolicy(
                "application",
                application,
                [key],
                setup.algorithm,
                routes=["*"],
                exempt_routes=[*dict.fromkeys(exempt)],
                comment="application_limits",
            )
        )
    if default:
        migration.policies.append(
            FilePolicy(
                "each-route" if application else "default",
                default,
                [key, "route"],
                setup.algorithm,
                routes=["*"] if application else (),
                exempt_routes=[*dict.fromkeys([*exempt, *replaced])],
                comment="default_limits",
            )
        )


def _list_of_rates(
    setup: LimiterSetup, migration: Migration, name: str, position: int
) -> list[Rate]:
    node = argument(setup.call, name, position)
    if node is None:
        return []
    if not isinstance(node, ast.List | ast.Tuple):
        _by_hand(migration, setup.source, node, f"{name} is no list of constants: write the policy")
        return []
    rates: list[Rate] = []
    for each in node.elts:
        found = rates_of(setup.source, each)
        if found is None:
            text = f"{name}: this is no constant rate: write it into the policy"
            _by_hand(migration, setup.source, each, text)
        rates += found or ()
    return rates


def replace_setup(setup: LimiterSetup, migration: Migration, policies: str) -> None:
    """Write a `Fleetlimit` in place of a limiter.

    Args:
        setup: The limiter.
        migration: The result, with all policies.
        policies: Path of the policy file, as the code names it.
    """
    source, call = setup.source, setup.call
    if not setup.algorithm and argument(call, "strategy", 4) is not None:
        _by_hand(migration, source, call, "strategy: write the algorithm of each limit")
    elif not setup.algorithm:
        _differ(
            migration,
            source,
            call,
            "slowapi counts in fixed windows, which admit up to twice the limit around their ends; "
            "the limits are token buckets now. --algorithm fixed_window keeps the windows",
        )
    arguments = []
    store = argument(call, "storage_uri", 5)
    if store is not None and not (isinstance(store, ast.Constant) and store.value is None):
        arguments.append(f"store={_store(migration, source, store)}")
    if migration.policies:
        arguments.append(f'policies="{policies}"')
    source.replace(call, f"Fleetlimit({', '.join(arguments)})")
    if source.full_name(argument(call, "key_func", 0)) == "slowapi.util.get_ipaddr":
        _differ(
            migration,
            source,
            call,
            "get_ipaddr believes a header that any client can write; set trusted_proxies in the "
            "section identity of the policy file to the addresses of your proxies",
        )


def _store(migration: Migration, source: Source, node: ast.expr) -> str:
    text = text_constant(node)
    if text is None:
        return source.code(node)
    url = text.removeprefix("async+")
    if not url.startswith(("redis", "memory", "valkey")):
        name = url.partition(":")[0]
        _by_hand(migration, source, node, f"{name} is no store: use the URL of a Redis or Valkey")
    if url.startswith("redis+sentinel"):
        text = "write redis+sentinel://host:26379/service/0, with the number of the database"
        _by_hand(migration, source, node, text)
    return json.dumps(url.replace("valkey", "redis", 1) if url.startswith("valkey") else url)


def _by_hand(migration: Migration, source: Source, node: ast.AST, text: str) -> None:
    migration.by_hand.append(source.note(node, text))


def _differ(migration: Migration, source: Source, node: ast.AST, text: str) -> None:
    migration.differences.append(source.note(node, text))

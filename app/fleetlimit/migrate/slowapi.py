"""Translator of slowapi: limiters, decorators, middleware and exception handlers.

https://slowapi.readthedocs.io has its interface. Limits of a route become dependencies of the
route; default and application limits become policies, which the middleware applies.
"""

import ast
from collections.abc import Sequence
from typing import TypeGuard

from fleetlimit.migrate.app_setup import add_lifespan
from fleetlimit.migrate.result import Migration
from fleetlimit.migrate.routes import Prefixes, RouteDecorator, route_decorators
from fleetlimit.migrate.slowapi_limits import LimiterSetup, SharedNames, translate_limit
from fleetlimit.migrate.slowapi_setup import OTHER_USES, add_policies, find_setups, replace_setup
from fleetlimit.migrate.source import Function, Source, argument

_MIDDLEWARE = frozenset(
    f"slowapi.middleware.{name}" for name in ("SlowAPIMiddleware", "SlowAPIASGIMiddleware")
)
_EXCEEDED = "slowapi.errors.RateLimitExceeded"
_DEFAULT_HANDLERS = frozenset(
    f"{module}._rate_limit_exceeded_handler" for module in ("slowapi", "slowapi.extension")
)


class SlowapiTranslator:
    """Translator of the files that use slowapi.

    Args:
        sources: All files.
        migration: Result that gets policies and notes; the sources get the edits.
        policies: Path of the policy file, as the code names it.
        algorithm: Algorithm of the limits of a limiter without a strategy.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        migration: Migration,
        policies: str,
        algorithm: str = "",
    ) -> None:
        self._sources = sources
        self._migration = migration
        self._policies = policies
        self._prefixes = Prefixes(sources)
        self._shared = SharedNames()
        self._setups = [setup for source in sources for setup in find_setups(source, algorithm)]
        self._replaced: list[str] = []
        """Templates of the routes whose own limits replace the default limits."""
        self._exempt: list[str] = []
        self._decorated: list[tuple[Source, Function, str]] = []
        """The functions of these routes, with their templates."""
        self._limited_by_default: set[str] = set()
        """Templates of the routes without a decorator of slowapi."""
        self._is_started = False
        self._has_middleware = False
        self._has_own_handler = False

    @property
    def limiter_names(self) -> frozenset[str]:
        """Names that limiters are assigned to."""
        return frozenset(each.name for each in self._setups)

    def translate(self) -> None:
        """Edit the files and add the policies."""
        for source in self._sources:
            for function in source.functions():
                self._translate_function(source, function)
            self._translate_handlers(source)
        for setup in self._setups:
            add_policies(
                setup,
                self._migration,
                exempt=self._without_shared(self._exempt),
                replaced=self._without_shared(self._replaced),
            )
            if not self._has_middleware and self._has_defaults:
                self._by_hand(
                    setup.source,
                    setup.call,
                    "no middleware of slowapi was found: write "
                    "app.add_middleware(RateLimitMiddleware), which applies the policies",
                )
        for setup in self._setups:
            replace_setup(setup, self._migration, self._policies)
        for source in self._sources:
            self._translate_app(source)
            self._note_other_uses(source)
        if self._setups and not self._is_started:
            setup = self._setups[0]
            self._by_hand(
                setup.source,
                setup.call,
                "`app.state.limiter = ...` was not found: write FastAPI(lifespan="
                f"{setup.name}), or `async with {setup.name}(app): yield` in the app's lifespan",
            )

    def _translate_function(self, source: Source, function: Function) -> None:
        limits = [
            (position, each)
            for position, each in enumerate(function.decorator_list)
            if self._is_method(source, each, {"limit", "shared_limit"})
        ]
        exempt = [each for each in function.decorator_list if self._is_exempt(source, each)]
        for each in function.decorator_list:
            self._note_unknown(source, each)
        routes = route_decorators(function)
        if not limits and not exempt:
            for route in routes:
                self._limited_by_default.update(self._prefixes.templates(source, route.call))
            return
        for each in exempt:
            source.delete_decorator(each)
            self._exempt += self._templates(source, routes, each)
        calls = [
            translated
            for position, each in limits
            for translated in self._translate_decorator(source, each, routes, position)
        ]
        if calls:
            for route in routes:
                _add_dependencies(source, route.call, calls)

    def _translate_decorator(
        self,
        source: Source,
        decorator: ast.expr,
        routes: Sequence[RouteDecorator],
        position: int,
    ) -> list[str]:
        """Delete a decorator of a limit, and return the dependencies in its place.

        One without a translation stays, so that the edited code fails instead of losing the limit.
        """
        call = decorator
        if not isinstance(call, ast.Call):
            self._by_hand(source, decorator, "a decorator without arguments has no limit")
            return []
        methods = frozenset(each for route in routes for each in route.methods)
        result = translate_limit(source, call, self._setup_of(source, call), methods, self._shared)
        self._migration.by_hand += result.notes
        self._migration.differences += result.differences
        if not result.calls:
            return []
        if not routes or not all(each.has_dependencies for each in routes):
            self._by_hand(
                source,
                decorator,
                "the function has no decorator of FastAPI: write "
                f"dependencies=[{_depends(result.calls)}] where "
                "it is added as a route, or a policy with a match",
            )
            return []
        if any(each.position > position for each in routes):
            self._differ(
                source,
                decorator,
                "slowapi did not enforce this limit, because its decorator stands above that of "
                "the route; it is enforced now",
            )
        source.delete_decorator(decorator)
        self._import_key(source, call)
        if result.overrides_defaults:
            self._replaced += self._templates(source, routes, decorator)
        return result.calls

    def _templates(
        self, source: Source, routes: Sequence[RouteDecorator], decorator: ast.expr
    ) -> list[str]:
        function = source.parents[decorator]
        assert isinstance(function, Function)  # noqa: S101 - it is decorated
        found = [
            template for each in routes for template in self._prefixes.templates(source, each.call)
        ]
        self._decorated += [(source, function, each) for each in found]
        if not found and self._has_defaults:
            self._by_hand(
                source,
                decorator,
                "the path of this route is not known: write it below exempt: {routes: [...]} of "
                "the policies in the file",
            )
        return found

    def _without_shared(self, templates: list[str]) -> list[str]:
        """Return the templates without those of a further route that has no limit of its own.

        An exemption is by template, so that route would lose its limits.
        """
        shared = {each for each in templates if each in self._limited_by_default}
        for source, function, template in self._decorated:
            if template in shared:
                self._differ(
                    source,
                    function,
                    f"{template} has a further route without a decorator, so the limits of the "
                    "policy file apply to both routes; exempt: {routes: [...]} is by path",
                )
        return [each for each in templates if each not in shared]

    @property
    def _has_defaults(self) -> bool:
        names = ("default_limits", "application_limits")
        return any(argument(each.call, name) for each in self._setups for name in names)

    def _import_key(self, source: Source, call: ast.Call) -> None:
        """Import the key function of the limiter's file where the limiter is imported."""
        setup = self._setup_of(source, call)
        if setup is None or argument(call, "key_func") is not None or setup.source is source:
            return
        name = setup.key.function
        if not name.isidentifier() or name in source.names or setup.key.source is None:
            if setup.key.function and name not in source.names:
                self._by_hand(source, call, f"import what the key {setup.key.function} needs")
            return
        for node in source.tree.body:
            if isinstance(node, ast.ImportFrom) and any(
                each.name == setup.name for each in node.names
            ):
                source.names[name] = f"{'.' * node.level}{node.module or ''}.{name}"
                line = f"from {'.' * node.level}{node.module or ''} import {name}\n"
                source.insert(source.line_start(node.lineno), line)
                return
        self._by_hand(source, call, f"import the key function {name}")

    def _note_unknown(self, source: Source, decorator: ast.expr) -> None:
        """Add a note of a decorator that may be that of a limiter which another file creates."""
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (
            isinstance(called, ast.Attribute)
            and called.attr in {"limit", "shared_limit", "exempt"}
            and not self._is_limiter(source, called.value)
        ):
            self._by_hand(
                source,
                decorator,
                f"{ast.unparse(called.value)} is no limiter of the files that were read: if it is "
                "one of slowapi, name the directory that has it, too",
            )

    def _is_exempt(self, source: Source, node: ast.expr) -> bool:
        return self._is_method(source, node, {"exempt"})

    def _is_method(self, source: Source, node: ast.expr, names: set[str]) -> bool:
        """Return whether a decorator is a method of a limiter, called or not."""
        function = node.func if isinstance(node, ast.Call) else node
        return (
            isinstance(function, ast.Attribute)
            and function.attr in names
            and self._is_limiter(source, function.value)
        )

    def _is_limiter(self, source: Source, node: ast.expr) -> bool:
        return self._setup_named(source, node) is not None

    def _setup_of(self, source: Source, call: ast.Call) -> LimiterSetup | None:
        function = call.func
        assert isinstance(function, ast.Attribute)  # noqa: S101 - a decorator of a limiter is one
        return self._setup_named(source, function.value)

    def _setup_named(self, source: Source, node: ast.expr) -> LimiterSetup | None:
        """Return the limiter that an expression names, in its own file or imported."""
        if ast.unparse(node).endswith("state.limiter"):
            return self._setups[0] if self._setups else None
        module, _, name = source.full_name(node).rpartition(".")
        own = [each for each in self._setups if each.name == name]
        for each in own:
            # Alone, or as an attribute of a class, an object or a package.
            if each.source is source:
                return each
        stem = module.rpartition(".")[2]
        for each in own:
            # A package's `__init__` may import the limiter of one of its modules.
            if module and each.source is not source and stem != "":
                return each
        return None

    def _translate_handlers(self, source: Source) -> None:
        for node in ast.walk(source.tree):
            if _is_middleware(node, source):
                self._has_middleware = True
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.func.attr
                is_exceeded = source.full_name(argument(node, "", 0)) == _EXCEEDED
                if name not in {"add_exception_handler", "exception_handler"} or not is_exceeded:
                    continue
                handler = argument(node, "handler", 1)
                statement = source.parents.get(node)
                if source.full_name(handler) in _DEFAULT_HANDLERS and isinstance(
                    statement, ast.Expr
                ):
                    source.delete_statement(statement)
                    self._differ(
                        source,
                        node,
                        "the response is application/problem+json (RFC 9457) in place of "
                        '{"error": ...}; Fleetlimit(on_rejected=...) may change it',
                    )
                else:
                    self._has_own_handler = True
                    self._differ(
                        source,
                        node,
                        "the handler stays, for an exception with other attributes: `detail`, "
                        "`decision`, `headers` and `status_code`, which may also be 503",
                    )

    def _translate_app(self, source: Source) -> None:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Assign) and self._is_app_state(source, node):
                target = node.targets[0]
                assert isinstance(target, ast.Attribute)  # noqa: S101 - `_is_app_state` checks it
                assert isinstance(target.value, ast.Attribute)  # noqa: S101 - as above
                app = ast.unparse(target.value.value)
                self._is_started = True
                note = add_lifespan(source, app, source.code(node.value))
                if note is not None:
                    self._migration.by_hand.append(note)
                source.delete_statement(node)
            elif _is_middleware(node, source):
                self._replace_middleware(source, node)

    def _is_app_state(self, source: Source, node: ast.Assign) -> bool:
        target = node.targets[0]
        return (
            isinstance(target, ast.Attribute)
            and target.attr == "limiter"
            and isinstance(target.value, ast.Attribute)
            and target.value.attr == "state"
            and self._is_limiter(source, node.value)
        )

    def _replace_middleware(self, source: Source, node: ast.Name | ast.Attribute) -> None:
        if isinstance(source.parents.get(node), ast.Attribute):
            return
        source.replace(node, "RateLimitMiddleware")
        call = source.parents.get(node)
        if self._has_own_handler and isinstance(call, ast.Call) and node in call.args:
            source.add_keyword(call, "use_exception_handlers", "True")

    def _note_other_uses(self, source: Source) -> None:
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Attribute) or not isinstance(
                node.ctx, ast.Load | ast.Store
            ):
                continue
            if node.attr == "view_rate_limit":
                self._by_hand(
                    source, node, "the state of the limits is in the headers of each response"
                )
            if node.attr in {"state", "limiter"} or not self._is_limiter(source, node.value):
                continue
            if not source.is_edited(node):
                fix = OTHER_USES.get(node.attr, "Fleetlimit has check, peek and reset")
                note = source.note(node, f"`{node.attr}` of slowapi's Limiter: {fix}")
                if not any(
                    (each.file, each.line) == (note.file, note.line)
                    for each in self._migration.by_hand
                ):
                    self._migration.by_hand.append(note)

    def _by_hand(self, source: Source, node: ast.AST, text: str) -> None:
        self._migration.by_hand.append(source.note(node, text))

    def _differ(self, source: Source, node: ast.AST, text: str) -> None:
        self._migration.differences.append(source.note(node, text))


def _is_middleware(node: ast.AST, source: Source) -> TypeGuard[ast.Name | ast.Attribute]:
    return isinstance(node, ast.Name | ast.Attribute) and source.full_name(node) in _MIDDLEWARE


def _add_dependencies(source: Source, call: ast.Call, limits: Sequence[str]) -> None:
    """Add dependencies to the decorator of a route, after those that it has."""
    added = _depends(limits)
    existing = argument(call, "dependencies")
    if isinstance(existing, ast.List) and existing.elts:
        source.insert(source.span(existing.elts[-1])[1], f", {added}")
    elif isinstance(existing, ast.List):
        source.replace(existing, f"[{added}]")
    elif existing is not None:
        source.replace(existing, f"[*{source.code(existing)}, {added}]")
    else:
        source.add_keyword(call, "dependencies", f"[{added}]")


def _depends(limits: Sequence[str]) -> str:
    return ", ".join(f"Depends({each})" for each in dict.fromkeys(limits))

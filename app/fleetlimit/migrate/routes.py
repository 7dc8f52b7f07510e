"""Routes in source code: the decorators that add them, and the prefixes of their routers."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from fleetlimit.migrate.source import Function, Source, argument, text_constant

_METHODS: Final = ("get", "post", "put", "delete", "patch", "head", "options", "trace")
_FASTAPI_DECORATORS: Final = frozenset({*_METHODS, "api_route", "websocket"})
_STARLETTE_DECORATORS: Final = frozenset({"route", "websocket_route"})
_MAX_NESTED: Final = 8
"""Deepest nesting of routers whose prefixes are added."""
_MAX_TEMPLATES: Final = 64
"""Most templates of one route, whose router may be included several times."""
RouterName = tuple[str, str]
"""Last part of the name of a module, and the name of a router in it."""


@dataclass(frozen=True, slots=True)
class RouteDecorator:
    """A decorator that adds a function as a route.

    Args:
        call: The decorator.
        position: Its index among the decorators of the function.
        has_dependencies: Whether it has the argument `dependencies`, as those of FastAPI.
    """

    call: ast.Call
    position: int
    has_dependencies: bool

    @property
    def methods(self) -> frozenset[str]:
        """Methods of the route in upper case; empty for those that no constant states."""
        name = self.call.func.attr if isinstance(self.call.func, ast.Attribute) else ""
        if name in _METHODS:
            return frozenset({name.upper()})
        methods = argument(self.call, "methods")
        if isinstance(methods, ast.List | ast.Tuple | ast.Set):
            return frozenset(
                text.upper() for each in methods.elts if (text := text_constant(each)) is not None
            )
        return frozenset({"GET"}) if name == "api_route" else frozenset()


def route_decorators(function: Function) -> list[RouteDecorator]:
    """Return the decorators that add a function as a route."""
    found = []
    for position, each in enumerate(function.decorator_list):
        if not isinstance(each, ast.Call) or not isinstance(each.func, ast.Attribute):
            continue
        if each.func.attr in _FASTAPI_DECORATORS | _STARLETTE_DECORATORS:
            has_dependencies = each.func.attr in _FASTAPI_DECORATORS
            found.append(RouteDecorator(each, position, has_dependencies))
    return found


class Prefixes:
    """Prefixes of the routers of all files.

    Args:
        sources: The files.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self._own: dict[RouterName, str] = {}
        self._included: dict[RouterName, list[tuple[RouterName, str]]] = defaultdict(list)
        for source in sources:
            for node in ast.walk(source.tree):
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    self._add_router(source, node)
                elif isinstance(node, ast.Call):
                    self._add_include(source, node)

    def _add_router(self, source: Source, node: ast.Assign | ast.AnnAssign) -> None:
        if not isinstance(node.value, ast.Call):
            return
        if source.full_name(node.value.func).rpartition(".")[2] != "APIRouter":
            return
        prefix = text_constant(argument(node.value, "prefix")) or ""
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                self._own[source.path.stem, target.id] = prefix

    def _add_include(self, source: Source, node: ast.Call) -> None:
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "include_router":
            return
        router = argument(node, "router", 0)
        if router is not None:
            prefix = text_constant(argument(node, "prefix")) or ""
            around = router_name(source, node.func.value)
            self._included[router_name(source, router)].append((around, prefix))

    def templates(self, source: Source, call: ast.Call) -> list[str]:
        """Return the templates of the route of a decorator; empty if its path is no constant."""
        path = text_constant(argument(call, "path", 0))
        if path is None or not isinstance(call.func, ast.Attribute):
            return []
        name = router_name(source, call.func.value)
        prefixes = islice(self._prefixes(name, _MAX_NESTED), _MAX_TEMPLATES)
        return [f"{prefix}{path}" or "/" for prefix in prefixes]

    def _prefixes(self, name: RouterName, depth: int) -> Iterator[str]:
        own = self._own.get(name, "")
        included = self._included.get(name, []) if depth else []
        for around, prefix in included:
            for outer in self._prefixes(around, depth - 1):
                yield f"{outer}{prefix}{own}"
        if not included:
            yield own


def router_name(source: Source, node: ast.expr) -> RouterName:
    """Return the name of a router that a file defines or imports."""
    module, _, name = source.full_name(node).rpartition(".")
    return (module.rpartition(".")[2] or source.path.stem, name)

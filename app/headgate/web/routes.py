"""Which route a request goes to, known before routing and the same for every FastAPI.

One scan of the app's routes makes a table of full templates: include prefixes and mount paths
resolved. A request's path is then looked up in a dictionary, or matched against the templates in
the order in which the app would try them. FastAPI 0.137 stopped flattening included routers into
`app.routes`; `iter_route_contexts` gives the flat view where it exists (see slowapi #281 for what
happens to a limiter that does not ask).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import Pattern
from typing import Any

from fastapi import routing as fastapi_routing
from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute, compile_path

from headgate.core.subject import UNMATCHED_ROUTE

WEBSOCKET = "WEBSOCKET"


@dataclass(frozen=True, slots=True)
class Entry:
    """One route of an app.

    Args:
        template: The full template, such as `/v1/items/{item_id}`; empty when none matched.
        methods: Methods in upper case; empty for any.
        calls: What the route's dependencies call, sub-dependencies included.
    """

    template: str = ""
    methods: frozenset[str] = frozenset()
    calls: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        """The route's methods and template, as buckets, logs and traces know it."""
        if not self.template:
            return UNMATCHED_ROUTE
        # HEAD comes along with GET by itself, and is the same route.
        methods = sorted(self.methods - {"HEAD"}) or ["ANY"]
        return f"{','.join(methods)} {self.template}"


UNMATCHED = Entry()


class RouteTable:
    """Looks up the route of a request.

    Args:
        entries: The routes, in the order in which the app tries them.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.entries = tuple(entries)
        self._patterns = [(compile_path(entry.template)[0], entry) for entry in self.entries]
        self._exact: dict[str, tuple[Entry, ...]] = {}
        for entry in self.entries:
            if "{" not in entry.template and entry.template not in self._exact:
                self._exact[entry.template] = tuple(_matching(self._patterns, entry.template))

    def find(self, method: str, path: str) -> Entry:
        """Return the route for a method and path, or for the path alone, or `UNMATCHED`."""
        found = self._exact.get(path)
        entries = _matching(self._patterns, path) if found is None else found
        other = UNMATCHED
        for entry in entries:
            if not entry.methods or method in entry.methods:
                return entry
            if other is UNMATCHED and method != WEBSOCKET:
                other = entry
        return other


def _matching(patterns: Sequence[tuple[Pattern[str], Entry]], path: str) -> Iterator[Entry]:
    return (entry for pattern, entry in patterns if pattern.match(path))


def scan(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[Entry]:
    """Yield the routes below `prefix`, those of mounted apps included."""
    for route in _flat(routes):
        path = getattr(route, "path", None) or ""
        inner = getattr(route, "original_route", route)
        if isinstance(inner, Mount):
            yield from _mounted(inner, prefix + path.rstrip("/"))
        elif isinstance(inner, Host):
            yield from scan(inner.routes, prefix)
        elif path or prefix:
            yield _entry(route, prefix + path, socket=isinstance(inner, WebSocketRoute))


def _mounted(mount: Mount, prefix: str) -> Iterator[Entry]:
    below = list(mount.routes)
    if below:
        yield from scan(below, prefix)
    # What the mounted app serves without routes of its own, such as static files.
    yield Entry(f"{prefix}/{{path:path}}")


def _flat(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    contexts = getattr(fastapi_routing, "iter_route_contexts", None)
    return iter(routes) if contexts is None else contexts(routes)


def _entry(route: Any, template: str, *, socket: bool) -> Entry:
    methods = {WEBSOCKET} if socket else set(getattr(route, "methods", None) or ())
    if "GET" in methods:
        methods.add("HEAD")
    dependant = getattr(route, "dependant", None)
    return Entry(template, frozenset(methods), tuple(_calls(dependant)) if dependant else ())


def _calls(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)


def table_of(scope: Mapping[str, Any]) -> RouteTable:
    """Return the table of the app that a request came to, scanned once."""
    app = scope["app"]
    table = getattr(app.state, "headgate_routes", None)
    if not isinstance(table, RouteTable):
        table = app.state.headgate_routes = RouteTable(scan(app.routes))
    return table


def path_of(scope: Mapping[str, Any]) -> str:
    """Return the path below the app's root path."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path

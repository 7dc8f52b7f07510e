"""Edits of the place where an app is created: its lifespan and its middleware."""

import ast
from collections.abc import Iterator

from fleetlimit.migrate.source import Function, Note, Source, argument

_APPS = frozenset({"fastapi.FastAPI", "starlette.applications.Starlette"})


def app_calls(source: Source) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls that create an app, with the name that it is assigned to."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        if source.full_name(node.value.func) not in _APPS:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield ast.unparse(target), node.value


def add_lifespan(source: Source, app: str, limiter: str) -> Note | None:
    """Make a limiter start with an app.

    Args:
        source: The file.
        app: Name that the app is assigned to.
        limiter: Expression of the `Fleetlimit`.

    Returns:
        A note if the app, or its lifespan, is not in this file.
    """
    call = next((call for name, call in app_calls(source) if name == app), None)
    if call is None:
        return source.note(
            source.tree.body[0],
            f"the app `{app}` is not created in this file: write `lifespan={limiter}` in the call "
            "of FastAPI that creates it",
        )
    lifespan = argument(call, "lifespan")
    if lifespan is None:
        source.add_keyword(call, "lifespan", limiter)
        return _note_events(source, call, limiter)
    function = source.function(lifespan.id) if isinstance(lifespan, ast.Name) else None
    if function is None or not enter_in_lifespan(source, function, limiter):
        return source.note(
            call, f"write `async with {limiter}(app): yield` in the lifespan of this app"
        )
    return None


def enter_in_lifespan(source: Source, function: Function, limiter: str) -> bool:
    """Wrap the `yield` of a lifespan in the limiter; return whether there is exactly one."""
    yields = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield)
    ]
    if len(yields) != 1 or not function.args.args:
        return False
    statement = yields[0]
    indent = " " * statement.col_offset
    app = function.args.args[0].arg
    source.replace(statement, f"async with {limiter}({app}):\n{indent}    {source.code(statement)}")
    return True


def _note_events(source: Source, call: ast.Call, limiter: str) -> Note | None:
    """Return a note if the app has handlers of events, which an app with a lifespan ignores."""
    for node in ast.walk(source.tree):
        is_event = isinstance(node, ast.Attribute) and node.attr in {
            "on_event",
            "add_event_handler",
        }
        if is_event or any(each.arg in {"on_startup", "on_shutdown"} for each in call.keywords):
            return source.note(
                call,
                "an app with a lifespan ignores on_event, on_startup and on_shutdown: move this "
                f"code into a lifespan, and write `async with {limiter}(app): yield` there",
            )
    return None

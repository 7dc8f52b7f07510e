"""Search for middlewares behind the rate-limit middleware that change the path or the method.

The search reads their source code. It finds assignments to an ASGI scope that is named so. A
middleware without source code, or with other names, is found by `RewriteDetector` when a request
reaches another route.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.applications import Starlette

from fleetlimit.web.app_limiter import has_own_limiter, mounted_apps
from fleetlimit.web.middleware import WRAPPED_KEY, RateLimitMiddleware

_ROUTED_BY: Final = frozenset({"path", "method", "root_path"})
"""Keys of the scope that the router selects a route by."""


@dataclass(frozen=True, slots=True)
class RewritingMiddleware:
    """Middleware that changes what a request is routed by.

    Args:
        name: Name of its class or function.
        changes: Keys of the scope that it changes.
    """

    name: str
    changes: tuple[str, ...]


def find_rewriting_middlewares(app: Starlette) -> Iterator[RewritingMiddleware]:
    """Yield the rewriting middlewares of an app behind its `RateLimitMiddleware`.

    The middlewares of mounted apps run behind it as well.

    Args:
        app: App with the middleware, or wrapped by it.
    """
    middlewares: list[Any] = list(app.user_middleware)
    if not hasattr(app, WRAPPED_KEY):
        classes = [each.cls for each in middlewares]
        # The first one is the outermost.
        middlewares = middlewares[_index_of_limiter(classes) + 1 :]
    yield from _rewriting(middlewares)
    for mounted in mounted_apps(app.routes):
        if not has_own_limiter(mounted):
            yield from _find_in_mounted(mounted)


def _find_in_mounted(app: Starlette) -> Iterator[RewritingMiddleware]:
    yield from _rewriting(app.user_middleware)
    for mounted in mounted_apps(app.routes):
        if not has_own_limiter(mounted):
            yield from _find_in_mounted(mounted)


def _index_of_limiter(classes: Sequence[Any]) -> int:
    return next(
        (
            index
            for index, each in enumerate(classes)
            if isinstance(each, type) and issubclass(each, RateLimitMiddleware)
        ),
        -1,
    )


def _rewriting(middlewares: Sequence[Any]) -> Iterator[RewritingMiddleware]:
    for each in middlewares:
        # `@app.middleware("http")` passes the function as an argument.
        for code in (each.cls, *each.args, *each.kwargs.values()):
            bases = inspect.getmro(code) if isinstance(code, type) else (code,)
            changes = sorted({key for base in bases for key in _changed_keys(base)})
            if changes:
                yield RewritingMiddleware(getattr(code, "__qualname__", repr(code)), tuple(changes))


def _changed_keys(code: Any) -> Iterator[str]:
    """Yield the keys of a scope that the code of a class or function sets."""
    # `inspect.getsource` raises TypeError for all other arguments of a middleware.
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        match node:
            # An item of the scope is assigned.
            case ast.Subscript(value=scope, slice=ast.Constant(value=key), ctx=ast.Store()):
                keys = [key]
            # The scope is updated, or copied with `dict`.
            case (
                ast.Call(func=ast.Attribute(value=scope, attr="update"))
                | ast.Call(func=ast.Name(id="dict"), args=[scope, *_])
            ):
                keys = [keyword.arg for keyword in node.keywords]
                keys += [key for argument in node.args for key in _keys_of_dict(argument)]
            # The scope is unpacked into a new one.
            case ast.Dict(keys=[None, *_], values=[scope, *_]):
                keys = _keys_of_dict(node)
            # The scope is merged with a dictionary.
            case (
                ast.BinOp(left=scope, op=ast.BitOr(), right=changes)
                | ast.AugAssign(target=scope, op=ast.BitOr(), value=changes)
            ):
                keys = _keys_of_dict(changes)
            case _:
                continue
        if _is_scope(scope):
            yield from (key for key in keys if key in _ROUTED_BY)


def _keys_of_dict(node: ast.AST) -> list[Any]:
    if not isinstance(node, ast.Dict):
        return []
    return [key.value for key in node.keys if isinstance(key, ast.Constant)]


def _is_scope(node: ast.AST) -> bool:
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name.endswith("scope")

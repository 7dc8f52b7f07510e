"""Host and path of a request, as the app's router reads them."""

from starlette.datastructures import Headers
from starlette.types import Scope


def get_host(scope: Scope) -> str:
    """Return the name of the host, in lower case and without the port."""
    return Headers(scope=scope).get("host", "").partition(":")[0].lower()


def get_root(scope: Scope) -> str:
    """Return the root path of the outermost app.

    In a mounted app `root_path` has the mount; `app_root_path` is the outermost app's.
    """
    root: str = (scope.get("root_path") and scope.get("app_root_path", scope["root_path"])) or ""
    return root


def get_relative_path(scope: Scope) -> str:
    """Return the path below the root path of the outermost app."""
    root = get_root(scope)
    path: str = scope["path"]
    return relative_path(path, root) if root else path


def relative_path(path: str, root: str) -> str:
    """Return the path below a root, as `starlette._utils.get_route_path` does."""
    if not path.startswith(root) or path[len(root) : len(root) + 1] not in {"", "/"}:
        return path
    return path[len(root) :]

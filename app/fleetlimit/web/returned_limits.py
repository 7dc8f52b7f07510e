"""Dependencies that make a limit and return it, which limits nothing: FastAPI does not call it."""

import contextlib
import dis
import inspect
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from fleetlimit.errors import ConfigError
from fleetlimit.web.code_search import named_values
from fleetlimit.web.route_policies import RateLimitDependency


def require_no_returned_limit(dependant: Any) -> None:
    """Check that no dependency whose value is not used, as in `dependencies=[...]`, is a limit.

    Args:
        dependant: FastAPI's tree of a route's dependencies.

    Raises:
        ConfigError: One returns a limit, so that the route would not be limited.
    """
    for each in dependant.dependencies:
        # A parameter has a name, and its function may call the limit.
        if each.name is None and _returns_limit(each.call):
            name = getattr(each.call, "__name__", repr(each.call))
            raise ConfigError(
                f"Depends({name}) limits nothing, because nothing calls the limit that it returns: "
                "write Depends(RateLimit(...))"
            )
        require_no_returned_limit(each)


def _returns_limit(call: Any) -> bool:
    if isinstance(call, RateLimitDependency):
        return False
    if isinstance(call, partial) and _is_limit_class(call.func):
        return True
    if _states_limit(call):
        return True
    return (
        isinstance(call, FunctionType)
        # With a request it may call the limit itself.
        and not _has_parameters(call.__code__)
        and any(map(_makes_limit, named_values(call)))
        and _returns_value(call)
    )


def _states_limit(call: Any) -> bool:
    """Return whether the annotation of what a function returns is a limit."""
    # It may need a name that is only for editors, and a C function has none.
    with contextlib.suppress(Exception):
        return _is_limit_class(inspect.signature(call, eval_str=True).return_annotation)
    return False


def _has_parameters(code: CodeType) -> bool:
    several = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    return bool(code.co_argcount or code.co_kwonlyargcount or code.co_flags & several)


def _is_limit_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, RateLimitDependency)


def _makes_limit(value: Any) -> bool:
    """Return whether a value is a limit, the class of one, or a function such as `rate_limit`."""
    if isinstance(value, FunctionType):
        return _states_limit(value)
    return _is_limit_class(value) or isinstance(value, RateLimitDependency)


def _returns_value(function: FunctionType) -> bool:
    """Return whether a function returns anything but None."""
    before = None
    for each in dis.get_instructions(function):
        if each.opname == "RETURN_CONST" and each.argval is not None:
            return True
        if each.opname == "RETURN_VALUE" and (
            before is None
            or not before.opname.startswith("LOAD_CONST")
            or before.argval is not None
        ):
            return True
        before = each
    return False

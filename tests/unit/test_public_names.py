"""Public names of the package: complete, typed, and imported on first use."""

import ast
import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import fleetlimit

HEAVY = ("fastapi", "starlette", "redis", "pydantic", "prometheus_client", "yaml", "structlog")


def test_import_loads_no_framework_and_no_driver() -> None:
    """`import fleetlimit` loads its own module and nothing that takes time to import."""
    code = f"import sys, fleetlimit; print([n for n in {HEAVY!r} if n in sys.modules])"
    code += "; print([n for n in sys.modules if n.startswith(('fleetlimit.', 'opentelemetry'))])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n[]\n"


def test_import_has_no_effect_on_the_parts() -> None:
    """A part that is imported by itself does the same as after `import fleetlimit`."""
    code = "from fleetlimit.web.dependency import RateLimit; RateLimit('5/minute')"
    code += "; import sys; assert 'fleetlimit.bootstrap' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", fleetlimit.__all__)
def test_public_name_resolves(name: str) -> None:
    """Each name can be imported from the package, and comes from one of its modules."""
    value = getattr(fleetlimit, name)
    assert value is getattr(import_module("fleetlimit"), name)
    assert name in dir(fleetlimit)


def test_star_import_gives_every_public_name() -> None:
    """`from fleetlimit import *` gives all of `__all__`."""
    names: dict[str, object] = {}
    exec("from fleetlimit import *", names)  # noqa: S102 - a star import is allowed at module level only
    assert set(fleetlimit.__all__) <= set(names)


def test_type_checkers_see_the_names_that_are_imported() -> None:
    """The imports for type checkers name the same modules as the lazy ones."""
    tree = ast.parse(Path(inspect.getfile(fleetlimit)).read_text())
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fleetlimit.")
        for alias in node.names
    }
    lazy = {name: f"fleetlimit.{module}" for name, module in fleetlimit._MODULE_BY_NAME.items()}
    assert typed == lazy
    assert sorted(lazy) == sorted(fleetlimit.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that is not public is an error as for any module."""
    with pytest.raises(AttributeError, match="module 'fleetlimit' has no attribute 'RateLimits'"):
        _ = fleetlimit.RateLimits  # type: ignore[attr-defined]  # that is the point

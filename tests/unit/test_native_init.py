"""The compiled wheel's dataclasses: methods in place of those that mypyc cannot compile."""

import copy
import runpy
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
Transform = Callable[[str], str]


@pytest.fixture
def transform() -> Transform:
    """The transformation of the build hook."""
    found: Transform = runpy.run_path(str(ROOT / "deploy/wheel/native_init.py"))["with_native_init"]
    return found


SOURCE = '''
from dataclasses import dataclass, field

NOTHING = frozenset()


@dataclass(slots=True)
class Plain:
    """A class."""

    a: int
    """A field."""
    b: "str" = "x"
    c: frozenset[int] = field(default_factory=lambda: NOTHING)

    def both(self) -> str:
        return f"{self.a}{self.b}"


@dataclass(frozen=True, slots=True)
class Frozen:
    """A class."""

    a: int
    twice: int = field(init=False, default=0)


@dataclass(slots=True)
class Listed:
    """A class."""

    a: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Checked:
    """A class."""

    a: int

    def __post_init__(self) -> None:
        self.a += 1
'''


def test_constructor_is_explicit_and_lines_keep_their_numbers(
    transform: Transform, tmp_path: Path
) -> None:
    """A plain dataclass gets the constructor that `dataclasses` would have generated."""
    text = transform(SOURCE)
    signature = "self, a: int, b: 'str' = 'x', c: frozenset[int] = NOTHING"
    before, after = SOURCE.split("\n"), text.split("\n")
    changed = [
        index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new
    ]
    reduce = "    def __reduce__(self) -> tuple[type[object], tuple[object, ...]]: return"
    assert [after[index] for index in changed] == [
        "@dataclass(slots=True, init=False)",
        f"{reduce} Plain, (self.a, self.b, self.c, )",
        f"    def __init__({signature}) -> None: self.a = a; self.b = b; self.c = c",
        f"{reduce} Frozen, (self.a, )",
        f"{reduce} Listed, (self.a, )",
        f"{reduce} Checked, (self.a, )",
    ]
    (tmp_path / "transformed.py").write_text(text, "utf-8")
    module = SimpleNamespace(**runpy.run_path(str(tmp_path / "transformed.py")))
    assert module.Plain(1) == module.Plain(1, "x", module.NOTHING) != module.Plain(2)
    assert repr(module.Plain(1, c=module.NOTHING)) == "Plain(a=1, b='x', c=frozenset())"
    assert (module.Listed().a, module.Checked(1).a) == ([], 2)
    assert copy.copy(module.Frozen(3)) == module.Frozen(3)
    assert copy.deepcopy(module.Plain(1, "y")) == module.Plain(1, "y")


def test_dataclass_without_a_docstring_is_an_error(transform: Transform) -> None:
    """Its `__reduce__` has no line."""
    with pytest.raises(ValueError, match="class A has no docstring"):
        transform("@dataclass\nclass A:\n    a: int\n")


def test_compiled_modules_stay_equal_but_for_these_methods(transform: Transform) -> None:
    """The objects that each check makes have a constructor that is compiled."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    hooks = project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]
    made = set()
    for name in hooks["custom"]["modules"]:
        source = (ROOT / "app" / "fleetlimit" / f"{name}.py").read_text("utf-8")
        lines = transform(source).split("\n")
        assert len(lines) == len(source.split("\n"))
        explicit = [index for index, line in enumerate(lines) if "init=False" in line]
        made |= {lines[index + 1].removeprefix("class ").rstrip(":") for index in explicit}
    hot = "AcquireResult BucketStatus CheckDecided Decision Identity InFlightBatch PolicyResult"
    assert {*hot.split(), "ScriptCall", "Subject"} <= made

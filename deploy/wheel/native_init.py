"""Source transformation: dataclasses whose constructor is compiled, and that can be copied.

mypyc compiles the methods of a dataclass and not its constructor: the one that `dataclasses`
generates runs in the interpreter, and sets each field through a descriptor. It takes longer than
that of a class which is not compiled, and a check makes nine such objects. So a copy of the source
is compiled in which each dataclass that is not frozen has an explicit constructor.

`copy` and `pickle` make an object without its constructor and then set the fields, neither of which
a compiled class permits. So each dataclass has a `__reduce__` that calls the constructor.
"""

import ast
from typing import Final

_OWN_INIT: Final = frozenset({"__init__", "__post_init__"})


def with_native_init(source: str) -> str:
    """Return a module's source with explicit methods of dataclasses, every line in its place.

    A frozen dataclass keeps its constructor, because its fields can only be set through `object`.
    So does one with `__init__`, `__post_init__` or options of single fields that a constructor
    would need.

    Args:
        source: Source of the module.
    """
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            _add_init(node, lines)
            _add_reduce(node, lines)
    return "\n".join(lines)


def _add_init(node: ast.ClassDef, lines: list[str]) -> None:
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    decorator = _plain_dataclass(node)
    names = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    parameters = [_parameter(each) for each in fields]
    if decorator is None or not fields or None in parameters or names & _OWN_INIT:
        return
    # In the empty line behind the fields, so that the numbers of all lines stay.
    at = next(index for index in range(_end(fields[-1]), len(lines)) if not lines[index].strip())
    indent = " " * fields[0].col_offset
    sets = "; ".join(f"self.{_name(each)} = {_name(each)}" for each in fields)
    signature = ", ".join(["self", *filter(None, parameters)])
    lines[at] = f"{indent}def __init__({signature}) -> None: {sets}"
    row, column = _end(decorator) - 1, (decorator.end_col_offset or 0) - 1
    lines[row] = f"{lines[row][:column]}, init=False{lines[row][column:]}"


def _add_reduce(node: ast.ClassDef, lines: list[str]) -> None:
    fields = [
        each
        for each in node.body
        if isinstance(each, ast.AnnAssign) and not _is_computed(each.value)
    ]
    if not fields or not any(map(_is_dataclass, node.decorator_list)):
        return
    # In the empty line between the docstring and the fields.
    at = _end(node.body[0])
    if not isinstance(node.body[0], ast.Expr) or lines[at].strip():
        raise ValueError(f"class {node.name} has no docstring with an empty line behind it")
    indent = " " * fields[0].col_offset
    values = "".join(f"self.{_name(each)}, " for each in fields)
    result = "tuple[type[object], tuple[object, ...]]"
    lines[at] = f"{indent}def __reduce__(self) -> {result}: return {node.name}, ({values})"


def _is_computed(value: ast.expr | None) -> bool:
    """Return whether the constructor has no parameter for a field with this value."""
    return isinstance(value, ast.Call) and any(
        each.arg == "init" and ast.unparse(each.value) == "False" for each in value.keywords
    )


def _is_dataclass(decorator: ast.expr) -> bool:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return ast.unparse(name) == "dataclass"


def _plain_dataclass(node: ast.ClassDef) -> ast.Call | None:
    """Return the decorator of a dataclass whose constructor can be written out, or None."""
    for each in node.decorator_list:
        if isinstance(each, ast.Call) and _is_dataclass(each):
            options = {option.arg for option in each.keywords}
            return each if options and options <= {"slots", "eq", "order"} else None
    return None


def _parameter(field: ast.AnnAssign) -> str | None:
    """Return the parameter of a field; None if its options have no form as a parameter."""
    parameter = f"{_name(field)}: {ast.unparse(field.annotation)}"
    match field.value:
        case None:
            return parameter
        case ast.Call(
            func=ast.Name(id="field"),
            args=[],
            keywords=[ast.keyword(arg="default_factory", value=ast.Lambda(body=ast.Name(id=name)))],
        ):
            # A factory that returns one object always, which `dataclasses` refuses as a default.
            return f"{parameter} = {name}"
        case ast.Call():
            return None
        case default:
            return f"{parameter} = {ast.unparse(default)}"


def _name(field: ast.AnnAssign) -> str:
    return ast.unparse(field.target)


def _end(node: ast.expr | ast.stmt) -> int:
    """Return the number of a node's last line."""
    return node.end_lineno or node.lineno

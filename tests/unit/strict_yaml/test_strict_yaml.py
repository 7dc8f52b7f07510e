"""Strict YAML reader: values, their lines, and errors."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fleetlimit import strict_yaml
from fleetlimit.errors import DocumentError
from fleetlimit.strict_yaml import MAX_BYTES, DocumentErrors, parse, read

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))


def faults(raw: bytes, source: str = "f") -> tuple[DocumentError, ...]:
    try:
        return tuple(parse(raw, source).errors)
    except DocumentErrors as error:
        return error.errors


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-12", -12),
        ("999999999999999999", 999_999_999_999_999_999),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("'7'", "7"),
        *((text, text) for text in ("0123", "-0", "+5", "1.5", "1:30", "no", "off", "9" * 19, "a")),
    ],
)
def test_plain_scalars(text: str, value: Any) -> None:
    """A plain scalar is a number or a literal only if it has one meaning; otherwise it is text."""
    data = parse(f"- {text}".encode(), "f").data

    assert data == [value]
    assert type(data[0]) is type(value)


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_empty_file_is_an_empty_mapping(text: str) -> None:
    """The schema then reports the missing fields."""
    assert parse(text.encode(), "f").data == {}


def test_json_with_a_byte_order_mark() -> None:
    """JSON is valid YAML, with any whitespace."""
    raw = b'\xef\xbb\xbf{"a":1,\r\n\t"b":[true,null,"x\\/\\u00e9"],"c":{"d":-3}}'
    document = parse(raw, "f.json")

    assert document.data == {"a": 1, "b": [True, None, "x/\u00e9"], "c": {"d": -3}}
    assert (document.lines["a",], document.lines["b", 2]) == (1, 2)


def test_error_has_the_nearest_line() -> None:
    """An error has the line of its value, or of the nearest enclosing value."""
    document = parse(b"# top\nkeys:\n- a: 1\n\n  b: 2\n", "f.yaml")

    assert str(document.error("wrong", ("keys", 0, "b"))) == "f.yaml:5: wrong"
    assert str(document.error("wrong", ("keys", 0, "c"))) == "f.yaml:3: wrong"
    assert str(document.error("wrong")) == "f.yaml:2: wrong"


def test_aliases() -> None:
    """An anchored value can be repeated; a redefined anchor has its latest value."""
    document = parse(b"a: &x [1]\nb: *x\nc: &x 2\nd: *x\n", "f")

    assert document.data == {"a": [1], "b": [1], "c": 2, "d": 2}


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_error_has_line_and_fix(path: Path) -> None:
    """Each invalid file has exactly one error, with its line and what to write instead."""
    first, _, _ = path.read_bytes().partition(b"\n")
    expected = first.decode().removeprefix("# expect: ")

    [fault] = faults(read(path), str(path))

    assert str(fault).startswith((f"{path}:{expected}", f"{path}: {expected}"))


def test_bad_files_are_found() -> None:
    """The invalid files exist."""
    assert len(BAD) == 12


def test_long_file_may_have_many_values() -> None:
    """The bound on values limits aliases; a file that writes its values out has a higher one."""
    raw = b"- 'a value of some length'\n" * 100_001

    assert len(parse(raw, "f").data) == 100_001


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000])
def test_depth_is_bounded(text: str) -> None:
    """A file of brackets cannot crash the process."""
    assert ["nested more than 32 deep" in str(fault) for fault in faults(text.encode())] == [True]


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    """The error of a missing file has its name."""
    with pytest.raises(DocumentErrors, match=r"gone\.yaml: the file cannot be read \(No such file"):
        read(tmp_path / "gone.yaml")


def test_file_size_is_bounded(tmp_path: Path) -> None:
    """A file above one mebibyte is not parsed."""
    path = tmp_path / "policies.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))

    with pytest.raises(DocumentErrors, match="above 1,048,576 bytes"):
        read(path)
    assert len(read(path, max_bytes=MAX_BYTES + 1)) == MAX_BYTES + 1


@given(st.binary() | st.text("&*!%[]{}:,-'\"#\n ax\\").map(str.encode))
def test_any_bytes_raise_only_document_errors(raw: bytes) -> None:
    """Any bytes either parse or raise `DocumentErrors`."""
    faults(raw)


@pytest.mark.parametrize(
    "text",
    ['"\\UFFFFFFFF"', f"%YAML 1.{'1' * 5000}\n--- a", "[" * 1000, "!secret!x a", "!secret a"],
)
def test_python_parser_has_the_same_errors(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML without its C parser behaves the same."""
    monkeypatch.setattr(strict_yaml, "_Loader", yaml.SafeLoader)

    assert parse(b"a: [1]", "f").data == {"a": [1]}
    [fault] = faults(text.encode())
    assert "secret" not in str(fault)

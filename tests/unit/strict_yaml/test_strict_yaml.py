"""What a file says, where it says it, and what is said of one that cannot be read."""

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
def test_scalars(text: str, value: Any) -> None:
    """A plain scalar is a number or a word only where it has one meaning; else it is text."""
    data = parse(f"- {text}".encode(), "f").data

    assert data == [value]
    assert type(data[0]) is type(value)


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    """Whoever reads it then says what it lacks."""
    assert parse(text.encode(), "f").data == {}


def test_json_and_a_byte_order_mark() -> None:
    """JSON is read as the YAML that it is, whatever its spaces."""
    raw = b'\xef\xbb\xbf{"a":1,\r\n\t"b":[true,null,"x\\/\\u00e9"],"c":{"d":-3}}'
    document = parse(raw, "f.json")

    assert document.data == {"a": 1, "b": [True, None, "x/\u00e9"], "c": {"d": -3}}
    assert (document.lines["a",], document.lines["b", 2]) == (1, 2)


def test_place_of_a_part() -> None:
    """A fault is placed at its value, or at what is nearest around it."""
    document = parse(b"# top\nkeys:\n- a: 1\n\n  b: 2\n", "f.yaml")

    assert str(document.error("wrong", ("keys", 0, "b"))) == "f.yaml:5: wrong"
    assert str(document.error("wrong", ("keys", 0, "c"))) == "f.yaml:3: wrong"
    assert str(document.error("wrong")) == "f.yaml:2: wrong"


def test_aliases() -> None:
    """What is written once can stand twice; the newest of one name counts."""
    document = parse(b"a: &x [1]\nb: *x\nc: &x 2\nd: *x\n", "f")

    assert document.data == {"a": [1], "b": [1], "c": 2, "d": 2}


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_names_the_line_and_the_fix(path: Path) -> None:
    """Each bad file is refused with its one fault, its line, and what to write instead."""
    first, _, _ = path.read_bytes().partition(b"\n")
    expected = first.decode().removeprefix("# expect: ")

    [fault] = faults(read(path), str(path))

    assert str(fault).startswith((f"{path}:{expected}", f"{path}: {expected}"))


def test_every_bad_file_is_there() -> None:
    """The bad files are found."""
    assert len(BAD) == 12


def test_a_long_file_may_hold_many_values() -> None:
    """The bound on values is one on aliases; a file that writes its values out has its own."""
    raw = b"- 'a value of some length'\n" * 100_001

    assert len(parse(raw, "f").data) == 100_001


@pytest.mark.parametrize("text", ["[" * 200_000, "{a: " * 200_000, "- " * 200_000])
def test_depth(text: str) -> None:
    """A file of brackets alone cannot end the process."""
    assert ["nested more than 32 deep" in str(fault) for fault in faults(text.encode())] == [True]


def test_file_missing(tmp_path: Path) -> None:
    """A file that is not there is an error with its name."""
    with pytest.raises(DocumentErrors, match=r"gone\.yaml: the file cannot be read \(No such file"):
        read(tmp_path / "gone.yaml")


def test_file_too_large(tmp_path: Path) -> None:
    """A file above one mebibyte is not even parsed."""
    path = tmp_path / "policies.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))

    with pytest.raises(DocumentErrors, match="above 1,048,576 bytes"):
        read(path)
    assert len(read(path, max_bytes=MAX_BYTES + 1)) == MAX_BYTES + 1


@given(st.binary() | st.text("&*!%[]{}:,-'\"#\n ax\\").map(str.encode))
def test_any_bytes(raw: bytes) -> None:
    """No bytes whatever raise anything but the error with the reasons."""
    faults(raw)


@pytest.mark.parametrize(
    "text",
    ['"\\UFFFFFFFF"', f"%YAML 1.{'1' * 5000}\n--- a", "[" * 1000, "!secret!x a", "!secret a"],
)
def test_python_parser(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyYAML was built without its C parser, the other one is held to the same."""
    monkeypatch.setattr(strict_yaml, "_Loader", yaml.SafeLoader)

    assert parse(b"a: [1]", "f").data == {"a": [1]}
    [fault] = faults(text.encode())
    assert "secret" not in str(fault)

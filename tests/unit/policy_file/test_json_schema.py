"""JSON Schema of policy files, for editors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fleetlimit.policy_file import json_schema
from fleetlimit.policy_file.schema import SECTIONS
from support.policies import PRODUCT_EXAMPLE, schema_accepts

SCHEMA = json_schema()
EXAMPLE = yaml.safe_load(PRODUCT_EXAMPLE)
# Of Draft 2020-12's core, applicator, validation, format and meta-data vocabularies.
KEYWORDS = {
    *("$schema", "$defs", "$ref", "anyOf", "oneOf", "items", "properties"),
    *("additionalProperties", "type", "enum", "const", "required", "minimum", "maximum"),
    "exclusiveMinimum",
    *("minItems", "minLength", "uniqueItems", "format", "title", "description", "default"),
}


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a schema and all its subschemas."""
    yield schema
    inner = [*schema.get("$defs", {}).values(), *schema.get("properties", {}).values()]
    inner += [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    inner += [schema[name] for name in ("items", "additionalProperties") if name in schema]
    for one in inner:
        if isinstance(one, dict):
            yield from schemas(one)


def test_schema_has_draft_and_title() -> None:
    """The schema has its draft and a title, and no `$id`."""
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["title"] == "Fleetlimit policies"
    assert "$id" not in SCHEMA
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_schema_uses_standard_keywords() -> None:
    """Every keyword belongs to the draft, and every reference resolves."""
    for schema in schemas(SCHEMA):
        assert set(schema) <= KEYWORDS
        assert schema.get("$ref", "#/$defs/Mode").removeprefix("#/$defs/") in SCHEMA["$defs"]


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_are_described_and_closed(name: str) -> None:
    """Every section has a description, describes each of its fields, and rejects other fields."""
    section = SECTIONS[name]
    schema = section.model_json_schema()

    assert schema["description"]
    assert schema["additionalProperties"] is False
    assert all(field.description for field in section.model_fields.values())


def test_schema_accepts_the_example() -> None:
    """The documentation's example is valid."""
    assert schema_accepts(SCHEMA, EXAMPLE, SCHEMA)


@pytest.mark.parametrize(
    "name",
    [
        "unknown_field",
        "unknown_algorithm",
        "mode_unknown",
        "match_empty",
        "rate_missing",
        "limits_not_a_list",
        "version_unknown",
        "method_unknown",
        "unknown_field_of_concurrency",
        "lease_of_a_policy",
    ],
)
def test_schema_rejects_bad_files(name: str) -> None:
    """The schema rejects the errors that a schema can express."""
    text = (Path(__file__).parent / "bad" / f"{name}.yaml").read_text()

    assert not schema_accepts(SCHEMA, yaml.safe_load(text), SCHEMA)

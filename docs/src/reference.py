"""Reference pages of the site, generated from the docstrings and the policy file's JSON schema.

The pages of the API name the objects, and mkdocstrings reads their docstrings and signatures from
the source when the site is built.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import fleetlimit
from fleetlimit import testing
from fleetlimit.policy_file import json_schema

_TITLES: Final = {
    "web": ("limits", "Limits, middleware and exceptions"),
    "bootstrap": ("fleetlimit", "Fleetlimit and its settings"),
    "limiter": ("limiter", "Limiter, reservations and events"),
    "core": ("values", "Policies, limits and decisions"),
    "identity": ("identity", "Identity"),
    "errors": ("errors", "Errors"),
    "strict_yaml": ("errors", "Errors"),
}
"""Page and title of each package; a package without a line has a page of its own name."""
_PLAIN_TYPES: Final = {"string": "text", "integer": "whole number", "object": "mapping"}
"""Words of the policy file's pages for types of JSON."""
_WITH_INHERITED: Final = frozenset({"fleetlimit.Fleetlimit", "fleetlimit.Limiter"})
"""Objects whose methods are partly those of a base that has no entry of its own."""
TESTING_PAGE: Final = "reference/testing.md"


def api_pages() -> dict[str, str]:
    """Return a page of the public names for each part of the package."""
    names: dict[str, list[str]] = {}
    titles: dict[str, str] = {}
    for name in fleetlimit.__all__:
        package = fleetlimit._MODULE_BY_NAME[name].partition(".")[0]  # noqa: SLF001 - the same project
        page, title = _TITLES.get(package, (package.replace("_", "-"), f"`fleetlimit.{package}`"))
        names.setdefault(f"reference/{page}.md", []).append(f"fleetlimit.{name}")
        titles[f"reference/{page}.md"] = title
    names[TESTING_PAGE] = [f"fleetlimit.testing.{name}" for name in testing.__all__]
    titles[TESTING_PAGE] = "Testing"
    return {page: _api_page(titles[page], names[page]) for page in names}


def _api_page(title: str, names: list[str]) -> str:
    sections = "".join(map(_api_section, sorted(names, key=str.casefold)))
    return f"# {title}\n{sections}"


def _api_section(name: str) -> str:
    options = "    options:\n      inherited_members: true\n" if name in _WITH_INHERITED else ""
    return f"\n::: {name}\n{options}"


def policy_file_page() -> str:
    """Return the reference of the policy file: a table of fields for each section."""
    schema = json_schema()
    return "\n".join(_policy_file_lines(schema, schema["$defs"]))


def _policy_file_lines(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[str]:
    yield "# Policy file: all fields"
    yield ""
    yield "Generated from the JSON schema that `fleetlimit policies schema` prints for editors."
    yield "[Policy files](../policies.md) explains the fields with examples."
    sections = [("Top level", schema), *definitions.items()]
    for name, section in sections:
        if "properties" not in section:
            continue
        yield ""
        yield f"## {_heading(name)}"
        if section is not schema and "description" in section:
            yield ""
            yield section["description"]
        yield ""
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        required = section.get("required", [])
        for field, value in section["properties"].items():
            default = "required" if field in required else _default(value)
            meaning = value.get("description", "").replace("|", "\\|")
            yield f"| `{field}` | {_type(value, definitions)} | {default} | {meaning} |"
    yield ""


def _heading(name: str) -> str:
    """Return the heading of a section: `ApiKeysSection` becomes `Api keys`."""
    words = "".join(f" {each.lower()}" if each.isupper() else each for each in name).strip()
    return words.removesuffix(" section").capitalize()


def _default(value: Mapping[str, Any]) -> str:
    default = value.get("default")
    return "" if default is None else f"`{json.dumps(default)}`"


def _type(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the type of a field in words, with a link to the section that describes it."""
    if reference := value.get("$ref", "").removeprefix("#/$defs/"):
        target = definitions[reference]
        if "properties" in target:
            heading = _heading(reference)
            return f"[{heading.lower()}](#{heading.lower().replace(' ', '-')})"
        return _type(target, definitions)
    if "enum" in value:
        return ", ".join(f"`{each}`" for each in value["enum"])
    if isinstance(kinds := value.get("type"), list):
        return " or ".join(_plain_type({"type": each}, definitions) for each in kinds)
    if choices := value.get("anyOf", value.get("oneOf")):
        return " or ".join(dict.fromkeys(_type(each, definitions) for each in choices))
    return _plain_type(value, definitions)


def _plain_type(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the type of a value that is no choice: a constant, a list, a mapping or a scalar."""
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}), definitions)}"
    if isinstance(value.get("additionalProperties"), dict):
        return f"mapping to {_type(value['additionalProperties'], definitions)}"
    kinds = value.get("type", "any")
    return " or ".join(
        _PLAIN_TYPES.get(each, each) for each in ([kinds] if isinstance(kinds, str) else kinds)
    )

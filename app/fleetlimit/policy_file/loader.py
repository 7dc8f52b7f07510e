"""Loader of policy files: an immutable policy set, or every error of the file."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fleetlimit import strict_yaml
from fleetlimit.core.policy_set import PolicySet
from fleetlimit.errors import DocumentError
from fleetlimit.policy_file.identity_schema import IdentitySection
from fleetlimit.policy_file.messages import describe_error
from fleetlimit.policy_file.schema import SECTIONS, PolicyDocument
from fleetlimit.strict_yaml import Document, DocumentErrors


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """Contents of a policy file.

    Args:
        policy_set: The policies.
        identity: The identity section; its paths are resolved against the file's directory.
    """

    policy_set: PolicySet
    identity: IdentitySection


def load(path: Path, *, generation: int = 0) -> PolicyFile:
    """Read a policy file.

    Args:
        path: The file.
        generation: Number of the policy set; each reload of this process adds 1.

    Returns:
        The policies and the identity section.

    Raises:
        DocumentErrors: The file cannot be read or is invalid; contains every error.
    """
    raw = strict_yaml.read(path)
    return parse(raw, source=str(path), directory=path.parent, generation=generation)


def parse(
    text: str | bytes,
    *,
    source: str = "policies",
    directory: Path | None = None,
    generation: int = 0,
) -> PolicyFile:
    """Read the text of a policy file.

    Args:
        text: The text, YAML; bytes are UTF-8.
        source: Name of the text, for messages.
        directory: Base of relative paths in the text; if absent, they stay relative.
        generation: Number of the policy set; each reload of this process adds 1.

    Returns:
        The policies and the identity section.

    Raises:
        DocumentErrors: The text is invalid; contains every error.
    """
    raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    found = strict_yaml.parse(raw, source)
    errors = [*found.errors, *_duplicate_names(found)]
    try:
        document = PolicyDocument.model_validate(found.data)
    except ValidationError as error:
        raise DocumentErrors([*errors, *_describe_all(error, found)]) from error
    if errors:
        raise DocumentErrors(errors)
    policies = PolicySet(
        (section.policy(document.defaults) for section in document.policies),
        generation=generation,
        digest=digest(raw),
        source=source,
    )
    return PolicyFile(policies, document.identity.with_base_dir(directory or Path()))


def digest(raw: bytes) -> str:
    """Return a short hash of the text, by which replicas compare their policies."""
    return hashlib.sha256(raw).hexdigest()[:12]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) for validation and completion in editors."""
    schema = PolicyDocument.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Fleetlimit policies",
    }


def _describe_all(error: ValidationError, found: Document) -> Iterator[DocumentError]:
    fields = {name: section.model_fields for name, section in SECTIONS.items()}
    for detail in error.errors(include_url=False):
        # The location also contains the branch of a union, which is not a key of the file.
        place = tuple(part for part in detail["loc"] if not str(part).startswith("("))
        yield found.error(describe_error(detail, fields), place)


def _duplicate_names(found: Document) -> Iterator[DocumentError]:
    """Yield an error for each repeated policy name, even if other parts are invalid."""
    entries = found.data.get("policies") if isinstance(found.data, dict) else None
    seen: set[str] = set()
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name in seen:
            place = ("policies", index, "name")
            yield found.error(f"two policies are named {name!r}: rename one of them", place)
        elif isinstance(name, str):
            seen.add(name)

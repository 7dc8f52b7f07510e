"""A policy file becomes one immutable set, or every reason why it cannot."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fleetlimit import strict_yaml
from fleetlimit.core.policy import PolicySet
from fleetlimit.errors import DocumentError
from fleetlimit.policy_file.identity_schema import IdentitySection
from fleetlimit.policy_file.messages import describe_error
from fleetlimit.policy_file.schema import SECTIONS, PolicyDocument
from fleetlimit.strict_yaml import Document, DocumentErrors


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """What a policy file says.

    Args:
        policy_set: The policies.
        identity: How callers are told apart; its paths start at the policy file's directory.
    """

    policy_set: PolicySet
    identity: IdentitySection


def load(path: Path, *, generation: int = 0) -> PolicyFile:
    """Read a policy file.

    Args:
        path: The file.
        generation: Number of the set, growing with each one loaded by this process.

    Returns:
        The policies and the identity section.

    Raises:
        DocumentErrors: The file cannot be read, or is wrong; holds every fault found.
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
        source: Its name, for messages.
        directory: Where relative paths in the text start; left out, they stay relative.
        generation: Number of the set, growing with each one loaded by this process.

    Returns:
        The policies and the identity section.

    Raises:
        DocumentErrors: The text is wrong; holds every fault found.
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
    """Return the short hash by which replicas tell whether they serve the same text."""
    return hashlib.sha256(raw).hexdigest()[:12]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (Draft 2020-12) by which editors check and complete the file."""
    schema = PolicyDocument.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Fleetlimit policies",
    }


def _describe_all(error: ValidationError, found: Document) -> Iterator[DocumentError]:
    fields = {name: section.model_fields for name, section in SECTIONS.items()}
    for detail in error.errors(include_url=False):
        # A location also names the branch of a union, which is no key of the file.
        place = tuple(part for part in detail["loc"] if not str(part).startswith("("))
        yield found.error(describe_error(detail, fields), place)


def _duplicate_names(found: Document) -> Iterator[DocumentError]:
    """Find the later ones of policies with one name, also where the rest cannot be read."""
    entries = found.data.get("policies") if isinstance(found.data, dict) else None
    seen: set[str] = set()
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name in seen:
            place = ("policies", index, "name")
            yield found.error(f"two policies are named {name!r}: rename one of them", place)
        elif isinstance(name, str):
            seen.add(name)

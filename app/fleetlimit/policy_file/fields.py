"""Base model and field types of a policy file's sections: strict, and closed to unknown fields."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError


class StrictModel(BaseModel):
    """A section of the file; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _reject_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("empty", "Value is empty")
    return value


class _SchemaWithoutNull:
    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        branches = [each for each in handler(schema)["anyOf"] if each != {"type": "null"}]
        without_null: dict[str, Any] = branches[0] if len(branches) == 1 else {"anyOf": branches}
        return without_null


T = TypeVar("T")
OptionalNotNull = Annotated[T | None, BeforeValidator(_reject_null), _SchemaWithoutNull()]
"""A field that may be absent but not empty: an empty `match` would match nothing."""

NonEmptyStr = Annotated[str, Field(min_length=1)]
StrictInt = Annotated[int, Field(strict=True)]

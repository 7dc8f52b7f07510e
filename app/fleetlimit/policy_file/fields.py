"""What all sections of a policy file have in common: nothing is guessed and nothing ignored."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError


class StrictModel(BaseModel):
    """A part of the file in which every field is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _reject_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("empty", "Value is empty")
    return value


class _SchemaWithoutNull:
    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        given: dict[str, Any] = handler(schema)["anyOf"][0]
        return given


T = TypeVar("T")
OptionalNotNull = Annotated[T | None, BeforeValidator(_reject_null), _SchemaWithoutNull()]
"""A field that may be left out, but not left empty: an empty `match` would hold nothing."""

NonEmptyStr = Annotated[str, Field(min_length=1)]
StrictInt = Annotated[int, Field(strict=True)]

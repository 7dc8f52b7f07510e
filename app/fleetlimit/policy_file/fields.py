"""What all sections of a policy file have in common: nothing is guessed and nothing ignored."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError


class Section(BaseModel):
    """A part of the file in which every field is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _given(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("empty", "Value is empty")
    return value


class _WithoutNull:
    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        given: dict[str, Any] = handler(schema)["anyOf"][0]
        return given


T = TypeVar("T")
MayBeAbsent = Annotated[T | None, BeforeValidator(_given), _WithoutNull()]
"""A field that may be left out, but not left empty: an empty `match` would hold nothing."""

Text = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(strict=True)]

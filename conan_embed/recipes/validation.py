"""Settings that are checked: what all sections of a recipe have in common, and their mistakes as one sentence.

A sentence names the dotted key, what was found and what was expected. A key of an earlier version is unknown like any
other, but the message names its successor.
"""

import os.path
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from conan_embed.errors import UserError, suggestion

if TYPE_CHECKING:  # pydantic has no public name for it
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

Schema = TypeVar("Schema", bound=BaseModel)

Share = Annotated[float, Field(ge=0, le=1)]
Moment = Annotated[float, Field(ge=0, lt=1)]
PathString = Annotated[str, AfterValidator(os.path.expanduser)]
"""A path, or a glob; `~` is the home directory."""


def _checked_name(name: str) -> str:
    """Names become file names (`files.file_name`), which are bounded."""
    if not name.strip() or len(name.encode()) > 150:
        raise ValueError(f"found {name!r}, expected a name of 1 to 150 bytes")
    return name


Name = Annotated[str, AfterValidator(_checked_name)]


class _OneSentence(ModelMetaclass):
    """Makes a mistake in `Recipe(...)` the same sentence as one in a file."""

    def __call__(cls, *arguments: Any, **values: Any) -> Any:
        try:
            return super().__call__(*arguments, **values)
        except ValidationError as error:
            raise UserError(f"{cls.__name__}: {_sentence(error, cast(type[BaseModel], cls))}") from None


class Section(BaseModel, metaclass=_OneSentence):
    """A part of a recipe: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def validate(values: Any, source: str | Path, schema: type[Schema]) -> Schema:
    """Return `values` as an instance of `schema`.

    Raises:
        UserError: the first mistake, with `source` and the dotted key.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error, schema)}") from None


def _sentence(error: ValidationError, schema: type[BaseModel]) -> str:
    # A misspelt key is often a missing one too, and its name is the better message.
    first = min(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(schema, first["loc"][:-1])
        return f"{key}: unknown key{_successor(str(first['loc'][-1]), known)}; expected one of {', '.join(known)}."
    if first["type"] == "missing":
        return f"{key}: missing; it has no default."
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    if first["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}."
    return f"{key}: found {first['input']!r}; {message[0].lower() + message[1:]}."


def _successor(key: str, known: Collection[str]) -> str:
    renamed = [name for name in _RENAMED.get(key, []) if name in known]
    return f" (did you mean {renamed[0]!r}?)" if renamed else suggestion(key, known)


def _known_keys(schema: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    for part in location:
        if part in schema.model_fields:  # else the index of a list or the key of a mapping
            schema = next(_schemas_in(schema.model_fields[part].annotation))
    return list(schema.model_fields)


def _schemas_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the schemas in an annotation: `Schema | None`, `list[Schema]`, `dict[str, Annotated[Schema, ...]]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _schemas_in(inner)


_RENAMED = {
    "below_positive": ["max_positive_ratio"],
    "ceiling": ["max_score"],
    "keep": ["keep_checkpoints"],
    "max_gradient_norm": ["max_grad_norm"],
    "negatives": ["num_negatives", "negative_source", "hard_negatives"],
    "recompute": ["activation_checkpointing"],
    "relative": ["subtract_background"],
    "when_used_up": ["on_exhausted"],
    "window": ["shuffle_window"],
}
"""Keys of earlier versions and what they are called now (one name had three meanings)."""

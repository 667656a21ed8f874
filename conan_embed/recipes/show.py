"""Recipes as text: the shipped ones, and the list of all keys with defaults and meanings."""

import textwrap
from pathlib import Path
from types import UnionType
from typing import Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from conan_embed.errors import UserError, suggestion
from conan_embed.recipes.loading import shipped_recipes
from conan_embed.recipes.schema import Recipe

_MEANING_WIDTH = 78


def list_recipes() -> str:
    """Return the shipped recipes, one per line, each with the first line of its comment."""
    lines = [f"{name:22} {_first_comment(path)}" for name, path in shipped_recipes().items()]
    return "\n".join(
        [*lines, "", "conan-embed recipe NAME prints one; conan-embed recipe --keys lists every key."]
    )


def recipe_text(name: str) -> str:
    """Return the text of a shipped recipe.

    Raises:
        UserError: no recipe of that name.
    """
    known = shipped_recipes()
    if name not in known:
        raise UserError(
            f"{name}: no shipped recipe{suggestion(name, known)}; expected one of {', '.join(known)}."
        )
    return known[name].read_text(encoding="utf-8").rstrip()


def list_keys() -> str:
    """Return every key of a recipe with its default, type and meaning, in the order of the schema."""
    return "\n".join(_lines(Recipe, 0))


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")


def _lines(schema: type[BaseModel], depth: int) -> list[str]:
    lines = []
    for name, field in schema.model_fields.items():
        inner, is_list = _section(field.annotation)
        if inner is not None:
            lines += ["" if depth == 0 else None, f"{'  ' * depth}{name}:{' # a list of' if is_list else ''}"]
            lines.append(f"{'  ' * (depth + 1)}# {(inner.__doc__ or '').strip().splitlines()[0]}")
            lines += _lines(inner, depth + 1)
        else:
            lines.append(_key(name, field, depth))
    return [line for line in lines if line is not None]


def _key(name: str, field: FieldInfo, depth: int) -> str:
    default = (
        "(needed)"
        if field.is_required()
        else _yaml(field.get_default(call_default_factory=True, validated_data={}))
    )
    meaning = f"{_kind(field.annotation)}{'; ' + field.description if field.description else ''}"
    first, *others = textwrap.wrap(meaning, _MEANING_WIDTH)
    lines = [f"{'  ' * depth}{name}: {default}".ljust(36) + f" # {first}"]
    return "\n".join([*lines, *(f"{'':36} #   {line}" for line in others)])


def _yaml(value: object) -> str:
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).split(
        "\n"
    )[0]


def _section(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    candidates = [annotation, *get_args(annotation)]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, get_origin(annotation) is list
    return None, False


def _kind(annotation: object) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " | ".join("null" if argument is type(None) else _kind(argument) for argument in arguments)
    if origin is None:
        return getattr(annotation, "__name__", str(annotation))
    if origin in (list, tuple, dict):
        return f"{origin.__name__} of {', '.join(_kind(argument) for argument in arguments)}"
    return _kind(arguments[0])  # Annotated

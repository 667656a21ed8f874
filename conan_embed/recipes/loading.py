"""Recipes from YAML: read, overridden from the command line, validated, compared.

A mistake is one sentence that names the file and the key (validation.py).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conan_embed.errors import UserError, suggestion
from conan_embed.recipes.data import RecipeData
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.sections import Replacement
from conan_embed.recipes.validation import validate


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    paths = sorted(Path(__file__).parent.glob("*.yaml"))
    return {path.stem: path for path in paths if not path.stem.startswith("filter")}


def load_recipe(source: str | Path, overrides: Sequence[str] | None = None) -> Recipe:
    """Read a recipe by path or by the name of a shipped one, with `dotted.key=value` overrides on top.

    Raises:
        UserError: no such recipe, not YAML, an unknown key, or a value that does not fit.

    Example:
        >>> load_recipe("small", ["step.queries=8"]).step.queries
        8
    """
    known = shipped_recipes()
    path = known.get(str(source), Path(source).expanduser())
    if not path.is_file():
        near = suggestion(str(source), known)
        raise UserError(f"{source}: no such recipe{near}; expected a YAML file or one of {', '.join(known)}.")
    values = read_yaml(path, overrides or [])
    if overrides:
        check_rule(read_yaml(path), OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides))), path)
    return validate(values, path, Recipe)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> Any:
    """Read a mapping of keys from a YAML file, with `dotted.key=value` overrides on top.

    Raises:
        UserError: not UTF-8, not YAML, not a mapping, or an override that does not fit the file.
    """
    tree = _parse(path)
    for override in overrides:
        if not re.match(r"[^=\s]+=", override):
            raise UserError(f"{override}: not an override; expected dotted.key=value.")
        try:
            tree.merge_with_dotlist([override])
        except (
            OmegaConfBaseException,
            yaml.YAMLError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(f"{override}: does not fit {path}: {str(error).splitlines()[0]}.") from None
    try:
        return OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}.") from None


def _parse(path: Path) -> DictConfig:
    try:
        tree = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}.") from None
    except OSError as error:  # also raised for a file that holds a single word
        raise UserError(f"{path}: not a mapping of keys: {error}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {where}not YAML: {getattr(error, 'problem', error)}.") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path}: found a list, expected a mapping of keys.")
    return tree


def changed_keys(before: Any, now: Any, ignored: Collection[str] = ()) -> list[str]:
    """Return each dotted key in which two recipes (as dictionaries) differ, as "KEY (was OLD, is NEW)".

    Args:
        ignored: sections or dotted keys that may differ.
    """
    return [
        f"{key} (was {old}, is {new})"
        for key, old, new in _differences(before, now, "")
        if not {key, key.split(".")[0]} & {*ignored}
    ]


def _differences(before: Any, now: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**before, **now}:
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif before != now:
        yield key, before, now


def check_rule(before: Any, changes: Any, source: str | Path) -> None:
    """Refuse to change `hard_negatives.rule` alone where a recipe has the defaults of its own rule written out.

    The recipe of a run has every default written out. Those of one rule must not become settings of another.

    Raises:
        UserError: names the bounds, as they are and as the new rule has them by default.
    """
    old, given = (_section(values, "hard_negatives") for values in (before, changes))
    if given.get("rule") not in ("mean", "each") or given["rule"] == old.get("rule", "mean"):
        return  # share has no use for them
    of_old, of_new = _bounds(old.get("rule", "mean")), _bounds(given["rule"])
    stale = [
        key for key, value in of_old.items() if key not in given and old.get(key) == value != of_new[key]
    ]
    if stale:
        found, expected = (", ".join(f"{key}: {of[key]:g}" for key in stale) for of in (of_old, of_new))
        raise UserError(
            f"{source}: hard_negatives.rule: found {given['rule']} beside {found}, the defaults of another rule; "
            f"expected these given as well, by default {expected}."
        )


def _bounds(rule: Any) -> dict[str, float]:
    """Return the bounds that a rule has by default; those of `mean` for one that is unknown."""
    settings = Replacement(rule=rule if rule in ("each", "share") else "mean")
    return {"decay": settings.decay, "max_score": settings.max_score}


def _section(values: Any, name: str) -> dict[str, Any]:
    section = values.get(name) if isinstance(values, dict) else None
    return section if isinstance(section, dict) else {}


# --- recipes made in Python


def data_entry(data: str | Path | Mapping[str, Any] | RecipeData) -> dict[str, Any]:
    """Return one element of `data.retrieval` or `data.sts`; its name is the file's where it has no other."""
    if isinstance(data, str | Path):
        data = {"path": data}
    entry = dict(data) if isinstance(data, Mapping) else data.recipe_entry()
    entry = _plain(entry)
    stem = re.sub(r"\W+", "-", Path(entry.get("path", "")).name.split(".")[0]).strip("-")
    return {"name": stem or "data"} | entry


def merge(values: Any, changes: Any) -> Any:
    """Return `values` with `changes` laid over it: mappings key by key, anything else whole."""
    if not (isinstance(values, dict) and isinstance(changes, Mapping)):
        return _plain(changes)
    return values | {key: merge(values.get(key), change) for key, change in changes.items()}


def _plain(value: Any) -> Any:
    """Return `value` as YAML could have written it: paths as text."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value

"""Prompts: texts put before queries, passages and the texts of STS pairs, under the names that published models use.

We know three roles; model folders know names. A folder's names are mapped to roles, the rest is kept for its clients.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conan_embed.console import console
from conan_embed.errors import UserError, suggestion
from conan_embed.files import read_object

ROLES = ("query", "passage", "sts")
# Names of each role in published models, those that we write first.
_NAMES = {
    "query": ("query", "search_query", "s2p_query", "retrieval.query", "Retrieval-query", "web_search_query"),
    "passage": (
        *("passage", "document", "corpus", "search_document", "retrieval.passage", "Retrieval-document"),
        "s2p_document",
    ),
    "sts": ("sts", "STS", "s2s_query", "text-matching", "sts_query"),
}
_ROLE_OF = {name: role for role, names in _NAMES.items() for name in names}
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
_KEYS = ("__version__", "model_type", "prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim")
_E5 = re.compile(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?")
_OTHER_MODELS = ("SparseEncoder", "CrossEncoder", "MultiVectorEncoder")


def is_role_name(name: str) -> bool:
    """Return whether published models use this name for one of our roles."""
    return name in _ROLE_OF


@dataclass(frozen=True)
class Prompts:
    """What a folder says of prompts.

    Attributes:
        by_name: all prompts under the folder's own names.
        default: the name of the prompt that clients use when told nothing.
    """

    by_name: dict[str, str] = field(default_factory=dict)
    default: str | None = None

    def by_role(self) -> dict[str, str]:
        """Return the prompt of each role: its own, else the default's, else none.

        Symmetric tasks have no prompt of their own in most published models; theirs is the query's then (as in E5).
        """
        fallback = "" if self.default is None else self.by_name[self.default]
        roles = {role: self._own(role) for role in ROLES}
        query = fallback if roles["query"] is None else roles["query"]
        last = {"query": query, "passage": fallback, "sts": fallback or query}
        return {role: last[role] if own is None else own for role, own in roles.items()}

    def _own(self, role: str) -> str | None:
        return next((self.by_name[name] for name in _NAMES[role] if name in self.by_name), None)

    def updated(self, by_role: dict[str, str]) -> dict[str, str]:
        """Return the prompts to save, under the folder's names and those that clients know.

        sentence-transformers asks for "query" and "document", mteb for "STS".
        """
        kept = {
            name: by_role[_ROLE_OF[name]] if name in _ROLE_OF else text for name, text in self.by_name.items()
        }
        named = {"query": by_role["query"], "document": by_role["passage"]}
        return {**kept, **named, "sts": by_role["sts"], "STS": by_role["sts"]}


def read_prompts(path: Path) -> tuple[Prompts, str]:
    """Read config_sentence_transformers.json.

    Returns:
        the prompts, and the similarity function ("cosine", "dot", "euclidean", "manhattan").

    Raises:
        UserError: the folder holds another kind of model, or its default prompt does not exist.
    """
    config = read_object(path) if path.exists() else {}
    if config.get("model_type") in _OTHER_MODELS:
        raise UserError(f"{path}: found a {config['model_type']}; expected a SentenceTransformer.")
    _check_settings(path, config)
    # sentence-transformers writes null for a name that has no prompt.
    by_name = {name: text for name, text in (config.get("prompts") or {}).items() if text is not None}
    default = config.get("default_prompt_name")
    if default is not None and default not in by_name:
        raise UserError(
            f"{path}: default_prompt_name: {default!r} is none of the prompts {json.dumps([*by_name])}."
        )
    unknown = [name for name, text in by_name.items() if text and name not in _ROLE_OF]
    if default is None and len(unknown) == sum(map(bool, by_name.values())) > 0:
        console.print(
            f"{path}: the prompts {', '.join(unknown)} are for none of our roles and are not used; give model.prompts "
            f"({', '.join(ROLES)}) to use them."
        )
    return Prompts(by_name, default), config.get("similarity_fn_name") or "cosine"


def published_prompts(base: str | Path) -> dict[str, str]:
    """Return the prompts by role that a published model was trained with and its folder does not name; else nothing.

    Args:
        base: a hub name or a folder; its last part tells.

    Example:
        >>> published_prompts("intfloat/multilingual-e5-small")
        {'query': 'query: ', 'passage': 'passage: ', 'sts': 'query: '}
        >>> published_prompts("BAAI/bge-m3")
        {}
    """
    is_e5 = _E5.fullmatch(str(base).rstrip("/").rpartition("/")[2])
    return {"query": "query: ", "passage": "passage: ", "sts": "query: "} if is_e5 else {}


def _check_settings(path: Path, config: dict[str, Any]) -> None:
    """Refuse settings that are not what they should be, and print the keys that are not known."""
    similarity, prompts = config.get("similarity_fn_name"), config.get("prompts")
    if similarity not in (None, *SIMILARITIES):
        raise UserError(
            f"{path}: similarity_fn_name: found {similarity!r}, expected one of {', '.join(SIMILARITIES)}."
        )
    is_object = prompts is None or isinstance(prompts, dict)
    if not is_object or not all(text is None or isinstance(text, str) for text in (prompts or {}).values()):
        raise UserError(f"{path}: prompts: found {prompts!r}, expected an object of texts by their names.")
    if config.get("truncate_dim") is not None:
        raise UserError(f"{path}: truncate_dim is not supported; expected Matryoshka widths by model.widths.")
    unknown = [key for key in config if key not in _KEYS]
    if unknown:
        console.print(f"{path}: the keys {', '.join(unknown)} are not known and have no effect.")


INSTRUCTION = "{instruction}"


def fill(templates: Mapping[str, str], instruction: str | None, *, where: str = "model") -> dict[str, str]:
    """Return prompts by role, the instruction put where a template asks for it.

    Raises:
        UserError: a template asks for an instruction and there is none.

    Example:
        >>> fill({"query": "Instruct: {instruction} Query: ", "passage": ""}, "Find the answer.")
        {'query': 'Instruct: Find the answer. Query: ', 'passage': ''}
    """
    for role, text in templates.items():
        if INSTRUCTION in text and instruction is None:
            raise UserError(
                f"{where}.prompts: the prompt of {role!r} holds {INSTRUCTION}; expected {where}.instruction, too."
            )
    return {role: text.replace(INSTRUCTION, instruction or "") for role, text in templates.items()}


def dataset_prompts(
    templates: Mapping[str, str],
    default: str | None,
    name: str,
    own: Mapping[str, str] | None,
    instruction: str | None,
    *,
    roles: tuple[str, ...],
) -> dict[str, str] | None:
    """Return the prompts of one data set by role; None where it has none of its own.

    Args:
        templates, default: of the model: its prompts, and the instruction of sets without one.
        own, instruction: of the data set.
        roles: that its texts have; the others stay those of the model.

    Raises:
        UserError: a prompt of a role that none of its texts has, or an instruction that no prompt of theirs asks for.
    """
    if own is None and instruction is None:
        return None
    where = f"data {name!r}"
    check_prompts(dict(own or {}), where=where)
    unused = [role for role in own or {} if role not in roles]
    if unused:
        raise UserError(
            f"{where}.prompts: found {unused[0]!r}, expected {_listed_roles(roles)}: no text of this set is read as "
            f"{unused[0]!r}."
        )
    used = {role: text for role, text in {**templates, **(own or {})}.items() if role in roles}
    if instruction is not None and not asks_for_instruction(used):
        raise UserError(
            f"{where}: found an instruction, expected a prompt of {_listed_roles(roles)} that asks for it with "
            f"{INSTRUCTION}."
        )
    others = {role: text for role, text in templates.items() if role not in roles}
    return {
        **fill(others, default),
        **fill(used, default if instruction is None else instruction, where=where),
    }


def asks_for_instruction(prompts: Mapping[str, str]) -> bool:
    """Return whether one of the prompts has a place for an instruction."""
    return any(INSTRUCTION in text for text in prompts.values())


def _listed_roles(roles: tuple[str, ...]) -> str:
    """Return roles as a sentence names them: 'query' or 'passage'."""
    return " or ".join(map(repr, roles))


def check_prompts(prompts: dict[str, str], *, where: str = "model") -> None:
    """Raise UserError for a prompt of a role that does not exist."""
    for role in prompts:
        if role not in ROLES:
            raise UserError(
                f"{where}.prompts: unknown role {role!r}; expected {json.dumps(ROLES)}{suggestion(role, ROLES)}."
            )

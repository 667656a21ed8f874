"""Share a model folder on the Hugging Face hub: look first, then upload.

Without `--yes` nothing leaves the machine: the plan names the repository, the files with their sizes, and what the card
still lacks. Weights in pickles, leftovers of a killed run and hidden files are never uploaded.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from conan_embed.encoder.adapter import ADAPTER_CONFIG, adapter_base
from conan_embed.encoder.formats import read_layout
from conan_embed.encoder.loading import is_path
from conan_embed.errors import UserError

_NEVER = (".tmp", ".bin", ".pt", ".ckpt", ".pkl")
_CARD = "README.md"


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        repository: owner and name on the hub.
        files: path below the folder to bytes, in order.
        lacks: what people who find the model would miss in its card.
        private: the repository is, if it is new.
    """

    repository: str
    files: dict[str, int]
    lacks: tuple[str, ...]
    private: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        size = sum(self.files.values()) / 1e6
        kind = "private" if self.private else "public"
        lines = [f"{self.repository} ({kind} if new): {len(self.files)} files, {size:,.1f} MB"]
        lines += [f"  {name}  {number / 1e6:,.2f} MB" for name, number in self.files.items()]
        return "\n".join([*lines, *(f"The card lacks {name}." for name in self.lacks)])


def plan_push(folder: Path, repository: str, *, private: bool = True) -> PushPlan:
    """Return what `push` would upload.

    Raises:
        UserError: no model folder, an adapter whose base only this machine has, or a name that the hub does not take.
    """
    _check_base(read_layout(folder).transformer)
    try:
        validate_repo_id(repository)
    except ValueError as error:
        raise UserError(f"repository {repository!r}: {str(error).splitlines()[0]}") from None
    if repository.count("/") != 1:
        raise UserError(f"repository {repository!r}: expected owner/name.")
    files = {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)}
    return PushPlan(repository, files, tuple(_lacks(folder / _CARD)), private)


def _check_base(folder: Path) -> None:
    base = adapter_base(folder)
    if base is not None and is_path(base):
        raise UserError(
            f"{folder / ADAPTER_CONFIG}: the adapter's base is {base!r}, a folder of this machine; expected a hub name "
            "(model.base), or a model that is saved whole (model.lora.save: merged)."
        )


def _files(folder: Path) -> list[Path]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(_NEVER)]
    return sorted(
        path for path in paths if not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def _lacks(card: Path) -> list[str]:
    """Return what the card leaves open."""
    if not card.exists():
        return ["everything: there is no README.md"]
    data, text = ModelCard(card.read_text(encoding="utf-8")).data.to_dict(), card.read_text(encoding="utf-8")
    lacks = [
        f"`{key}` at its top" for key in ("license", "language") if data.get(key) in (None, [], "unknown")
    ]
    return lacks + (["what it calls *unknown*"] if re.search(r"\*unknown\*", text) else [])


def push(folder: Path, repository: str, *, private: bool = True, api: HfApi | None = None) -> str:
    """Upload a model folder; return the address of the commit.

    Args:
        private: for a repository that does not exist yet; one that exists stays as it is.
        api: of the hub; a test gives its own.

    Raises:
        UserError: as `plan_push`; a card without a licence; no token, or the hub refuses.
    """
    plan = plan_push(folder, repository, private=private)
    if any("license" in name or "README" in name for name in plan.lacks):
        raise UserError(
            f"{folder / _CARD}: names no license; expected `license:` at its top before the model is shared."
        )
    api = api or HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(plan.files),
            commit_message="Upload model",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repository}: cannot be uploaded: {reason}") from error
    return str(commit.commit_url)

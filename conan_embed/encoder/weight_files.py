"""Weights on disk: safetensors only, since a pickle can run code."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from conan_embed.errors import UserError


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: the file is missing (perhaps there is a pickle instead) or is not whole.
    """
    if not path.exists():
        raise UserError(f"{path}: {missing_weights(path.parent)}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}.") from None


def missing_weights(folder: Path, model: str | None = None) -> str:
    """Return why `folder` without safetensors is refused, and the command that converts a pickle.

    Args:
        model: folder or hub name of the whole model.
    """
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.ckpt") for path in folder.glob(kind))
    found = f"found only the pickled {pickles[0]}" if pickles else "no such file"
    model = model or str(folder.parent)
    name = Path(model).name
    return (
        f"{found}; weights are read from safetensors only, since a pickle can run code. To convert a model that you "
        f'trust: python -c "from sentence_transformers import SentenceTransformer as S; '
        f"S('{model}').save('{name}-safetensors')\""
    )

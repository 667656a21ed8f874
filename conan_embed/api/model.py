"""Load an embedding model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from conan_embed.encoder.model import EmbeddingModel


def load_model(
    name: str | Path,
    *,
    widths: Sequence[int] | None = None,
    prompts: Mapping[str, str] | None = None,
    max_length: int | None = None,
    pooling: str | None = None,
    trust_remote_code: bool = False,
) -> EmbeddingModel:
    """Load a model from the hub or from a folder (sentence-transformers or transformers layout), ready to encode.

    Settings that you leave out come from the model itself.

    Args:
        name: hub name or folder.
        widths: Matryoshka prefixes that the model offers; the full width is always one of them.
        prompts: text put before the texts of a role, one of "query", "passage", "sts".
        max_length: tokens per text, special tokens included; longer texts are cut.
        pooling: "cls", "mean" or "last".
        trust_remote_code: run Python code that comes with the model.

    Returns:
        the model in evaluation mode, on the GPU if there is one; `encode_query` and
        `encode_document` return float32 [N, D] with rows of length 1.

    Raises:
        UserError: no such model, unusable weights, or settings that do not fit it.

    Example:
        >>> model = ce.load_model("sentence-transformers/all-MiniLM-L6-v2")
        >>> queries = model.encode_query(["How do I reset my password?"])
        >>> documents = model.encode_document(["Click on 'Forgot password'.", "We ship within two days."])
        >>> queries.shape, documents.shape
        ((1, 384), (2, 384))
        >>> (queries @ documents.T).argmax(axis=1)
        array([0])
    """
    from conan_embed.device import choose_device

    model = EmbeddingModel.load(
        name,
        widths=widths,
        prompts=None if prompts is None else dict(prompts),
        max_length=max_length,
        pooling=pooling,
        trust_remote_code=trust_remote_code,
    )
    return model.to(choose_device()).eval()

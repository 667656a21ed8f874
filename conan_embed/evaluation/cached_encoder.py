"""An encoder that runs its model once per text, whoever asks, and hands out narrower widths as prefixes.

Encoding is what an evaluation costs. Training scores its sets and looks at examples of the same texts; mteb asks for
the same texts at every width, subset and split. So embeddings are kept by content (a 128-bit hash of prompt and text),
in memory or in a memory-mapped file. A cache serves one state of a model's weights and one precision: it lives in the
process and is never found again, so nothing else has to stand in its keys.

Shapes: N texts, U distinct texts, D full width, W width asked for.
"""

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from conan_embed.errors import NotFinite

_TEXTS_AT_ONCE = 16_384
"""Enough that sorting them by length leaves little padding, few enough for memory (117 MB of vectors at width 1792)."""


class Embedder(Protocol):
    """What evaluation needs of a model: `EmbeddingModel` has it."""

    @property
    def prompts(self) -> Mapping[str, str]:
        """Text put before queries (`query`), documents (`passage`) and all others (`sts`)."""
        ...

    @property
    def width(self) -> int:
        """Length of a full vector."""
        ...

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> NDArray[np.float32]:
        """Return float32 `[N, width]` with rows of length 1; `prompt` is put before each text."""
        ...


class CachedEncoder:
    """An `Embedder` that encodes each (prompt, text) once. A context manager, if it has a file.

    Args:
        model: encodes what is new.
        folder: where a file of embeddings stands while the cache is in use, 4 bytes a number; None: in memory.
        options: further arguments of `model.encode`, such as `precision="float32"`.

    Example:
        >>> model = CachedEncoder(model)  # doctest: +SKIP
    """

    def __init__(self, model: Embedder, folder: str | Path | None = None, **options: Any) -> None:
        self._model, self._options = model, options
        self._row: dict[bytes, int] = {}
        self._file: IO[bytes] = io.BytesIO()
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix=".vectors-")  # noqa: SIM115

    def __enter__(self) -> "CachedEncoder":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """How many distinct texts were encoded."""
        return len(self._row)

    @property
    def prompts(self) -> Mapping[str, str]:
        return self._model.prompts

    @property
    def dataset_prompts(self) -> Mapping[str, Mapping[str, str]]:
        return getattr(self._model, "dataset_prompts", {})

    @property
    def width(self) -> int:
        return self._model.width

    def encode(
        self, texts: Sequence[str], *, prompt: str = "", width: int | None = None
    ) -> NDArray[np.float32]:
        """Return float32 [N, W], rows of length 1, in the order of `texts`; W is D unless `width` is given.

        Raises:
            NotFinite: the model's embedding of a text is no vector of numbers.
        """
        keys = [xxhash.xxh3_128_digest(f"{prompt}\0{text}".encode()) for text in texts]
        new = list({k: text for k, text in zip(keys, texts, strict=True) if k not in self._row}.items())
        for start in range(0, len(new), _TEXTS_AT_ONCE):
            self._append(dict(new[start : start + _TEXTS_AT_ONCE]), prompt)
        return prefix(self._stored()[[self._row[key] for key in keys]], width)

    def _append(self, texts: dict[bytes, str], prompt: str) -> None:
        vectors = encode_finite(self._model, list(texts.values()), prompt, **self._options)
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(vectors).data)
        self._file.flush()
        self._row.update({key: row for row, key in enumerate(texts, len(self._row))})

    def _stored(self) -> NDArray[np.float32]:
        """Return all embeddings, float32 [U, D], without a copy."""
        shape = (len(self._row), self.width)
        if isinstance(self._file, io.BytesIO) or not self._row:
            buffer = self._file.getbuffer() if isinstance(self._file, io.BytesIO) else b""
            return np.frombuffer(buffer, np.float32).reshape(shape)
        return np.memmap(self._file, np.float32, mode="r", shape=shape)


class PromptedEncoder:
    """An `Embedder` with other prompts: those of one data set.

    Args:
        model: encodes.
        prompts: by role.
    """

    def __init__(self, model: Embedder, prompts: Mapping[str, str]) -> None:
        self._model, self.prompts, self.width = model, prompts, model.width

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> NDArray[np.float32]:
        """See `Embedder`."""
        return self._model.encode(texts, prompt=prompt)


def for_dataset(model: Embedder, name: str) -> Embedder:
    """Return the model with the prompts that it has for the data set `name`, or the model itself."""
    own = getattr(model, "dataset_prompts", {}).get(name)
    return model if own is None else PromptedEncoder(model, own)


def encode_finite(model: Embedder, texts: Sequence[str], prompt: str, **options: Any) -> NDArray[np.float32]:
    """Return `model.encode(texts)`.

    Raises:
        NotFinite: an embedding is no vector of numbers.
    """
    vectors_ND = model.encode(texts, prompt=prompt, **options)
    assert vectors_ND.shape == (len(texts), model.width) and vectors_ND.dtype == np.float32
    finite_N = np.isfinite(vectors_ND).all(axis=1)
    if not finite_N.all():
        text = texts[int(finite_N.argmin())]
        raise NotFinite(
            f"the model's embeddings of {(~finite_N).sum():,} of {len(texts):,} texts hold NaN or infinity, expected "
            f"finite numbers; the first is that of {text[:60]!r}."
        )
    return vectors_ND


def prefix(vectors_ND: NDArray[np.float32], width: int | None) -> NDArray[np.float32]:
    """Return the first `width` columns, rows of length 1; `vectors_ND` itself if `width` is None or D."""
    if width is None or width == vectors_ND.shape[1]:
        return vectors_ND
    first = torch.from_numpy(np.ascontiguousarray(vectors_ND[:, :width]))
    return torch.nn.functional.normalize(first, dim=1).numpy()

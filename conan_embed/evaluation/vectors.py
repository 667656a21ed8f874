"""Vectors of texts, encoded once at full width and kept in a memory-mapped file; narrower widths are its prefixes.

mteb evaluates one width at a time and asks for the same texts each time. The cache answers by content (a 128-bit hash
of prompt and text), so the model runs once per distinct text, however many widths, subsets and splits ask for it.
Memory holds the hashes and what one call returns; the vectors themselves stand on disk, 4 bytes a number.

Shapes: N texts, U distinct texts, D full width, W width asked for.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

Encode = Callable[[Sequence[str], str], NDArray[np.float32]]

_TEXTS_AT_ONCE = 16_384
"""Enough that sorting them by length leaves little padding, few enough for memory (117 MB of vectors at width 1792)."""


class VectorCache:
    """Vectors of (prompt, text) by content. A context manager: the file goes when it is left.

    Args:
        encode: (texts, prompt) -> float32 [N, D] with rows of length 1.
        width: D.
        folder: where the file stands while the cache is in use.
    """

    def __init__(self, encode: Encode, width: int, folder: str | Path) -> None:
        self._encode, self._width = encode, width
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=folder, prefix=".vectors-")  # noqa: SIM115
        self._row: dict[bytes, int] = {}

    def __enter__(self) -> "VectorCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        """How many distinct texts were encoded."""
        return len(self._row)

    def __call__(
        self, texts: Sequence[str], *, prompt: str = "", width: int | None = None
    ) -> NDArray[np.float32]:
        """Return float32 [N, W], rows of length 1, in the order of `texts`; W is D where `width` is None."""
        keys = [xxhash.xxh3_128_digest(f"{prompt}\0{text}".encode()) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._row}
        for start in range(0, len(new), _TEXTS_AT_ONCE):
            self._append(dict(list(new.items())[start : start + _TEXTS_AT_ONCE]), prompt)
        if not texts:
            return np.empty((0, width or self._width), np.float32)
        stored_UD = np.memmap(self._file, np.float32, mode="r", shape=(len(self._row), self._width))
        vectors_NW = stored_UD[:, : width or self._width][[self._row[key] for key in keys]]
        if width is None or width == self._width:
            return vectors_NW
        return vectors_NW / np.linalg.norm(vectors_NW, axis=1, keepdims=True)

    def _append(self, texts: dict[bytes, str], prompt: str) -> None:
        vectors = self._encode(list(texts.values()), prompt)
        assert vectors.shape == (len(texts), self._width) and vectors.dtype == np.float32
        self._file.seek(0, 2)
        self._file.write(np.ascontiguousarray(vectors).data)
        self._file.flush()
        first = len(self._row)
        self._row.update({key: first + number for number, key in enumerate(texts)})

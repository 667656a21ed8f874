"""Vectors as a database stores them to save space, and what a model keeps of its scores with them.

    int8      a byte a number: each vector on 255 even steps, scaled by its largest number; compared by cosine
    binary    a bit a number, its sign; compared by Hamming distance

Both sides are stored alike, queries too, and nothing is scored again with full vectors: what an index finds by itself.

Shapes: N texts, D full width, W width kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from conan_embed.errors import UserError, suggestion

Kind = Literal["int8", "binary"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Stored:
    """A way to store the first `width` numbers of a vector."""

    kind: Kind
    width: int

    def __str__(self) -> str:
        return f"{self.kind} {self.width}"

    @classmethod
    def parse(cls, text: str) -> "Stored":
        """Read what `str` returned."""
        kind, width = text.split()
        return cls(kind, int(width))  # type: ignore[arg-type]

    @property
    def num_bytes(self) -> int:
        """Bytes of a vector."""
        return self.width if self.kind == "int8" else math.ceil(self.width / 8)

    def of(self, vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return float32 [N, W], whose cosines rank as the stored vectors do.

        Binary vectors have one length, a power of two near 1: then dot products are exact, and those of one Hamming
        distance are equal to the last bit.
        """
        first_NW = vectors_ND[:, : self.width]
        if self.kind == "binary":
            size = np.float32(2.0 ** round(-math.log2(self.width) / 2))
            return np.where(first_NW > 0, size, -size)
        step_N = np.abs(first_NW).max(axis=1, keepdims=True) / 127
        steps_NW = np.rint(first_NW / np.maximum(step_N, np.finfo(np.float32).tiny))
        length_N = np.sqrt(np.square(steps_NW).sum(axis=1, keepdims=True))
        return np.divide(steps_NW, np.maximum(length_N, 1), dtype=np.float32)


def kinds_from(given: Sequence[str] | None) -> list[Kind]:
    """Return the kinds that a person wrote, each as one or several: `["int8,binary"]`.

    Raises:
        UserError: there is no such kind.
    """
    words = [word.strip() for text in given or () for word in text.split(",") if word.strip()]
    for word in words:
        if word not in KINDS:
            raise UserError(
                f"vectors {word!r}: no such kind{suggestion(word, KINDS)}; expected int8 or binary."
            )
    return [kind for kind in KINDS if kind in words]

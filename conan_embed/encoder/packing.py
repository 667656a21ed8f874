"""Many texts in one stream without padding.

The texts of a chunk lie end to end in one row `[1, T]`; `position_ids` restart at each text and only the attention
function (attention.py) needs to know where one text ends. Every other layer of a transformer works on single tokens,
so nothing is spent on padding.

    lengths  [5, 3, 2]         three texts, T = 10 tokens
    offsets  [0, 5, 8, 10]     where each begins; text i is stream[offsets[i]:offsets[i + 1]]

Shapes: N texts, T tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from conan_embed.device import to_device
from conan_embed.texts.ragged import expand_ranges

PADDED_TO = 128
"""On GPUs a stream is padded to a multiple of this many tokens: few different sizes for compiled code and for the
memory allocator, aligned matrix products, and less than 1 % of a full chunk."""

# Upper bounds of the lengths that share one padded block in the attention function where no variable-length kernel
# exists. Few blocks and at most a third of padding: with 16-token steps up to 512 the call overhead of small blocks
# costs as much as the padding saves (docs/log.md). Attention to padding grows with the square of
# the length, so texts of thousands of tokens must not share a block with texts of hundreds.
BLOCK_LENGTHS = (16, 32, 48, *(step * 2**power for power in range(5, 14) for step in (2, 3)), 32_768)


@dataclass(frozen=True)
class Packed:
    """One chunk of texts as a padding-free stream, sorted by length (so that padded blocks are few).

    Attributes:
        token_ids_T: int64, all tokens of all texts, special tokens included.
        lengths_N: int64 on the CPU, tokens per text. A dummy text may come last (`pad_stream`).
        prompt_lengths_N: int64 on the CPU, the first tokens of each text that are not pooled; None for none.
    """

    token_ids_T: torch.Tensor
    lengths_N: np.ndarray
    prompt_lengths_N: np.ndarray | None = None
    _on_device: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return self.token_ids_T.device

    @property
    def max_length(self) -> int:
        return int(self.lengths_N.max())

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [N + 1], where each text begins in the stream."""
        return np.concatenate([[0], np.cumsum(self.lengths_N)])

    def tensor(self, name: str, values: np.ndarray) -> torch.Tensor:
        """Return `values` on the device of the stream, copied once per chunk under that name."""
        if name not in self._on_device:
            self._on_device[name] = to_device(values, self.device)
        return self._on_device[name]

    @property
    def offsets_N1(self) -> torch.Tensor:
        """int32 [N + 1] on the device: the cumulative lengths that variable-length kernels take."""
        return self.tensor("offsets", self.offsets.astype(np.int32))

    @property
    def position_ids_T(self) -> torch.Tensor:
        """int64 [T], counting from 0 in each text."""
        return self.tensor("positions", expand_ranges(np.zeros_like(self.lengths_N), self.lengths_N))

    @cached_property
    def blocks(self) -> "PaddedBlocks":
        """The texts as padded blocks of similar length, for attention without a variable-length kernel."""
        return PaddedBlocks.of(self)


@dataclass(frozen=True)
class PaddedBlocks:
    """How to copy a stream into padded blocks and back.

    Attributes:
        to_blocks_P: int64 [P], for every position of every block the token of the stream that it holds (padding repeats
            the first token of its text).
        from_blocks_T: int64 [T], the position of every token of the stream among the P.
        shapes: (texts, padded length) of each block, in stream order.
        key_is_padding: per block bool [texts, length], or None where the block holds no padding.
    """

    to_blocks_P: torch.Tensor
    from_blocks_T: torch.Tensor
    shapes: list[tuple[int, int]]
    key_is_padding: list[torch.Tensor | None]

    @classmethod
    def of(cls, packed: Packed) -> "PaddedBlocks":
        block_of_N = np.searchsorted(BLOCK_LENGTHS, packed.lengths_N)
        cuts = np.flatnonzero(np.diff(block_of_N)) + 1
        to_blocks, from_blocks, shapes, padding = [], [], [], []
        num_positions = 0
        for number, texts in enumerate(np.split(np.arange(len(packed.lengths_N)), cuts)):
            lengths = packed.lengths_N[texts]
            longest = int(lengths.max())
            position = np.arange(longest)
            real = position < lengths[:, None]
            starts = packed.offsets[texts][:, None]
            to_blocks.append(np.where(real, starts + position, starts).ravel())
            from_blocks.append(num_positions + np.flatnonzero(real.ravel()))
            shapes.append((len(texts), longest))
            padding.append(None if real.all() else packed.tensor(f"padding{number}", ~real))
            num_positions += real.size
        return cls(
            packed.tensor("to_blocks", np.concatenate(to_blocks)),
            packed.tensor("from_blocks", np.concatenate(from_blocks)),
            shapes,
            padding,
        )


def gather_tokens(
    tokens: np.ndarray, offsets: np.ndarray, text_ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of the texts `text_ids` end to end (int64 [T]) and their lengths (int64 [N])."""
    starts = offsets[text_ids]
    lengths = offsets[text_ids + 1] - starts
    return tokens[expand_ranges(starts, lengths)].astype(np.int64), lengths


def chunks_by_tokens(lengths_N: np.ndarray, token_budget: int) -> Iterator[np.ndarray]:
    """Yield the texts' rows, longest first, in chunks of at most `token_budget` tokens (or of one text)."""
    order = np.argsort(-lengths_N, kind="stable")
    ends = np.cumsum(lengths_N[order])
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + token_budget, side="right")))
        yield order[start:stop]
        start = stop


def mark_prompts(tokens_T: np.ndarray, offsets: np.ndarray, prompt_lengths_N: np.ndarray) -> np.ndarray:
    """Return the tokens with those of the prompts marked: token t is written as -1 - t.

    The marks travel with the tokens through stores and streams, and `take_marks` reads them where texts are packed.
    At least the last token of a text stays unmarked.
    """
    marked = expand_ranges(offsets[:-1], np.minimum(prompt_lengths_N, np.diff(offsets) - 1).clip(0))
    tokens_T = tokens_T.copy()
    tokens_T[marked] = ~tokens_T[marked]
    return tokens_T


def take_marks(tokens_T: np.ndarray, lengths_N: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the tokens without marks, and how many tokens of each text were marked (None: none at all)."""
    marked = tokens_T < 0
    if not marked.any():
        return tokens_T, None
    counts = np.concatenate([[0], np.cumsum(marked)])
    ends = np.cumsum(lengths_N)
    return np.where(marked, ~tokens_T, tokens_T), counts[ends] - counts[ends - lengths_N]


def pack_flat(tokens_T: np.ndarray, lengths_N: np.ndarray, device: torch.device | str = "cpu") -> Packed:
    """Pack texts that already lie end to end, sorted by length."""
    steps = np.diff(lengths_N)
    assert (steps <= 0).all() or (steps >= 0).all(), "texts of a chunk must be sorted by length"
    lengths_N = np.asarray(lengths_N, np.int64)
    tokens_T, prompt_N = take_marks(np.asarray(tokens_T, np.int64), lengths_N)
    return Packed(to_device(np.ascontiguousarray(tokens_T), device), lengths_N, prompt_N)


def pad_stream(tokens_T: np.ndarray, lengths_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Append one dummy text of zeros, whose embedding is dropped, up to a multiple of PADDED_TO."""
    missing = -len(tokens_T) % PADDED_TO
    if not missing:
        return tokens_T, lengths_N
    return np.append(tokens_T, np.zeros(missing, tokens_T.dtype)), np.append(lengths_N, missing)


@dataclass(frozen=True)
class Chunk:
    """A packed stream, and the rows (int64, on the CPU) of its texts among those that were asked for."""

    packed: Packed
    rows: np.ndarray


def pack(
    tokens: np.ndarray,
    offsets: np.ndarray,
    text_ids: np.ndarray,
    *,
    token_budget: int,
    device: torch.device | str = "cpu",
    pad: bool = False,
) -> Iterator[Chunk]:
    """Yield the texts `text_ids` of a store in chunks of at most `token_budget` tokens, on `device`, longest first.

    Args:
        tokens: all tokens of the store, [all tokens].
        offsets: int64 [texts + 1], where each text begins in `tokens`.
        text_ids: int64 [N].
        pad: add a dummy text up to a multiple of PADDED_TO tokens.
    """
    lengths = offsets[text_ids + 1] - offsets[text_ids]
    for rows in chunks_by_tokens(lengths, token_budget):
        flat, lengths_N = gather_tokens(tokens, offsets, text_ids[rows])
        if not pad:
            yield Chunk(pack_flat(flat, lengths_N, device), rows)
            continue
        flat, lengths_N = pad_stream(flat, lengths_N)
        flat, prompt_N = take_marks(flat, lengths_N)
        yield Chunk(Packed(to_device(flat, device), lengths_N, prompt_N), rows)

"""Which texts are the same to the model: content ids by text and by tokens.

Two texts have one content if they are equal, or if the tokenizer makes the same tokens of them: they may differ in case
or blanks, or beyond the length at which texts are cut. Prompts do not count: each text's tokens are compared without
those that its prompt puts before it (and the special token before that). Tokens that unrelated texts share (all of them
one unknown word) say nothing: such texts are compared as they are written.

Shapes: N texts, T tokens of all of them.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import xxhash

# Texts whose tokens differ from the first on and up to the last: what all of them have in common under a prompt is the
# prompt's and the special tokens.
_PROBES = ("a", "1", "的", "?")


@dataclass(frozen=True)
class Frame:
    """The tokens around every text under one prompt: the prompt's and the special ones.

    Attributes:
        alike: where they cannot be told, since the probes all have the same tokens: these; else None.
    """

    start: np.ndarray
    end: np.ndarray
    alike: np.ndarray | None = None


@dataclass(frozen=True)
class Probes:
    """Texts to tokenise in order to know the frames of some prompts."""

    prompts: Sequence[str]

    @property
    def texts(self) -> list[str]:
        return [prompt + probe for prompt in self.prompts for probe in _PROBES]

    def frames(self, tokens: np.ndarray, offsets: np.ndarray) -> dict[str, Frame]:
        """Return the frame of each prompt, given the tokens of `texts` (int32 end to end, int64 offsets into them)."""
        texts = [tokens[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
        groups = [texts[i : i + len(_PROBES)] for i in range(0, len(texts), len(_PROBES))]
        return {prompt: _frame(group) for prompt, group in zip(self.prompts, groups, strict=True)}


def probes_of(prompts: pl.Series) -> Probes:
    return Probes(prompts.unique(maintain_order=True).to_list())


def _frame(texts: Sequence[np.ndarray]) -> Frame:
    if all(np.array_equal(text, texts[0]) for text in texts):  # all of them unknown words
        return Frame(texts[0][:0], texts[0][:0], alike=texts[0])
    start = _common_start(texts)
    shortest = min(map(len, texts))
    end = _common_start([text[::-1][: shortest - len(start)] for text in texts])[::-1]
    return Frame(start, end)


def _common_start(texts: Sequence[np.ndarray]) -> np.ndarray:
    shortest = min(map(len, texts))
    table = np.stack([text[:shortest] for text in texts])
    differs = (table != table[0]).any(axis=0)
    return table[0, : int(differs.argmax()) if differs.any() else shortest]


def contents_of(
    unique: pl.DataFrame, frames: Mapping[str, Frame], tokens: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return the content of each text, numbered in order of appearance.

    Args:
        unique: text: str, prompt: str, no row twice.
        frames: of these prompts.
        tokens, offsets: int32 [T] and int64 [N + 1], of the texts with their prompts.

    Returns:
        int64 [N].
    """
    by_text = _numbers(unique["text"])
    by_tokens = _numbers(pl.Series(_token_hashes(unique["prompt"], frames, tokens, offsets)))
    pairs = pl.DataFrame({"text": by_text, "tokens": by_tokens}).unique()
    if len(pairs) == pairs["tokens"].n_unique():  # as a rule: equal tokens are of equal texts
        return by_text
    return _numbers(pl.Series(_connected(by_text, by_tokens)))


def _numbers(values: pl.Series) -> np.ndarray:
    """Return a number for each value, the same for equal ones, in order of appearance: int64."""
    frame = pl.DataFrame({"value": values})
    unique = frame.unique(maintain_order=True).with_row_index("number")
    joined = frame.join(unique, on="value", how="left", maintain_order="left")
    return joined["number"].to_numpy().astype(np.int64)


def _connected(by_text: np.ndarray, by_tokens: np.ndarray) -> np.ndarray:
    """Return the component of each row, where rows that share a text or tokens hang together."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = int(by_text.max()) + 1
    size = count + int(by_tokens.max()) + 1
    edges = coo_array((np.ones(len(by_text)), (by_text, count + by_tokens)), shape=(size, size))
    return connected_components(edges, directed=False)[1][by_text]


def _token_hashes(
    prompts: pl.Series, frames: Mapping[str, Frame], tokens: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return a hash of each text's own tokens, uint64 [N]; a text whose tokens say nothing has one that no other has.

    A text whose own tokens cannot be told from its prompt's is comparable with texts of the same prompt only.
    """
    begin, seed = offsets[:-1].copy(), np.zeros(len(prompts), np.int64)
    says_nothing = np.zeros(len(prompts), bool)
    for number, (prompt, frame) in enumerate(frames.items(), 1):
        rows = np.flatnonzero((prompts == prompt).to_numpy())
        is_framed = _starts_with(frame.start, rows, tokens, offsets) & (frame.alike is None)
        if frame.alike is not None:
            says_nothing[_equal_to(frame.alike, rows, tokens, offsets)] = True
        begin[rows[is_framed]] += len(frame.start)
        seed[rows[~is_framed]] = number
    tokens = np.where(tokens < 0, ~tokens, tokens)  # whether a token is pooled does not make it another
    data = np.ascontiguousarray(tokens, np.int32).view(np.uint8).data
    ranges = zip((4 * begin).tolist(), (4 * offsets[1:]).tolist(), seed.tolist(), strict=True)
    hashes = [xxhash.xxh3_64_intdigest(data[first:last], seed) for first, last, seed in ranges]
    result = np.array(hashes, dtype=np.uint64)
    alone = np.flatnonzero(says_nothing | (begin == offsets[1:]))
    result[alone] = alone  # hashes are far larger numbers
    return result


def _starts_with(start: np.ndarray, rows: np.ndarray, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return bool [rows]: do the tokens of that text begin with `start`?"""
    result = offsets[rows + 1] - offsets[rows] >= len(start)
    for position, token in enumerate(start):
        result[result] = tokens[offsets[rows[result]] + position] == token
    return result


def _equal_to(expected: np.ndarray, rows: np.ndarray, tokens: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return those of the texts `rows` whose tokens are `expected`."""
    rows = rows[offsets[rows + 1] - offsets[rows] == len(expected)]
    return rows[_starts_with(expected, rows, tokens, offsets)]


def unread_texts(
    prompts: pl.Series, frames: Mapping[str, Frame], tokens: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return the texts of which the tokenizer leaves nothing between the tokens of the frame, int64."""
    unread = []
    for prompt, frame in frames.items():
        rows, alone = np.flatnonzero((prompts == prompt).to_numpy()), np.concatenate([frame.start, frame.end])
        unread.append(_equal_to(alone, rows, tokens, offsets))
    return np.sort(np.concatenate([np.empty(0, np.int64), *unread]))

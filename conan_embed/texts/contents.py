"""Which texts are the same to the model: content ids by text and by tokens.

Two texts have one content if they are equal, or if the tokenizer makes the same tokens of them: they may differ in case
or blanks, or beyond the length at which texts are cut. Prompts do not count: each text's tokens are compared without
those that its prompt puts before it (and the special token before that). A token for unknown words stands for any of
them: texts that hold one are the same only if they are also written alike, but for case and blanks.

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
_UNKNOWN = ("𒀀", "𒁀")  # what no vocabulary holds: where both have the same token, it is that of unknown words
_LONG = 2000  # words; a tokenizer that cuts later leaves few texts to compare beyond its length


@dataclass(frozen=True)
class Frame:
    """The tokens around every text under one prompt: the prompt's and the special ones.

    Attributes:
        known: whether they could be told: not if all probes have the same tokens.
        unknown: the token of unknown words, if there is one.
        max_length: where the tokenizer cuts, if it does.
    """

    start: np.ndarray
    end: np.ndarray
    known: bool = True
    unknown: int | None = None
    max_length: int | None = None


@dataclass(frozen=True)
class Probes:
    """Texts to tokenise in order to know the frames of some prompts."""

    prompts: Sequence[str]

    @property
    def texts(self) -> list[str]:
        probes = (*_PROBES, *_UNKNOWN, "a " * _LONG)
        return [prompt + probe for prompt in self.prompts for probe in probes]

    def frames(self, tokens: np.ndarray, offsets: np.ndarray) -> dict[str, Frame]:
        """Return the frame of each prompt, given the tokens of `texts` (int32 end to end, int64 offsets into them)."""
        texts = [tokens[start:stop] for start, stop in itertools.pairwise(offsets.tolist())]
        size = len(texts) // max(len(self.prompts), 1)
        groups = [texts[i : i + size] for i in range(0, len(texts), size)]
        return {prompt: _frame(group) for prompt, group in zip(self.prompts, groups, strict=True)}


def probes_of(prompts: pl.Series) -> Probes:
    return Probes(prompts.unique(maintain_order=True).to_list())


def _frame(texts: Sequence[np.ndarray]) -> Frame:
    *texts, unknown, other, long = texts
    is_cut = len(long) < _LONG and not np.array_equal(
        long, texts[0]
    )  # and not one token whatever the text is
    max_length = len(long) if is_cut else None
    if all(np.array_equal(text, texts[0]) for text in texts):  # all of them unknown words
        return Frame(
            texts[0][:0], texts[0][:0], False, int(texts[0][-1]) if len(texts[0]) else None, max_length
        )
    start = _common_start(texts)
    shortest = min(map(len, texts))
    end = _common_start([text[::-1][: shortest - len(start)] for text in texts])[::-1]
    own = unknown[len(start) : len(unknown) - len(end)]
    is_unknown = np.array_equal(unknown, other) and len(own) > 0
    return Frame(start, end, True, int(own[-1]) if is_unknown else None, max_length)


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
    by_tokens = _numbers(pl.Series(_token_hashes(unique, frames, tokens, offsets)))
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
    unique: pl.DataFrame, frames: Mapping[str, Frame], tokens: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return a hash of each text's own tokens, uint64 [N]; a text without any has one that no other has.

    A text whose own tokens cannot be told from its prompt's is comparable with texts of the same prompt only.
    """
    prompts = unique["prompt"]
    begin, seed = offsets[:-1].copy(), np.zeros(len(prompts), np.int64)
    has_unknown = np.zeros(len(prompts), bool)
    for number, (prompt, frame) in enumerate(frames.items(), 1):
        rows = np.flatnonzero((prompts == prompt).to_numpy())
        is_framed = _starts_with(frame.start, rows, tokens, offsets) & frame.known
        begin[rows[is_framed]] += len(frame.start)
        seed[rows[~is_framed]] = number
        has_unknown[rows] = _holds_unknown(frame, rows, tokens, offsets, begin)
    data = np.ascontiguousarray(tokens, np.int32).view(np.uint8).data
    ranges = zip((4 * begin).tolist(), (4 * offsets[1:]).tolist(), seed.tolist(), strict=True)
    hashes = [xxhash.xxh3_64_intdigest(data[first:last], seed) for first, last, seed in ranges]
    result = np.array(hashes, dtype=np.uint64)
    result[has_unknown] ^= _written_hashes(unique["text"].filter(pl.Series(has_unknown)))
    empty = np.flatnonzero(begin == offsets[1:])
    result[empty] = empty  # hashes are far larger numbers
    return result


def _holds_unknown(
    frame: Frame, rows: np.ndarray, tokens: np.ndarray, offsets: np.ndarray, begin: np.ndarray
) -> np.ndarray:
    """Return bool [rows]: does that text, which begins at `begin`, hold an unknown word, and is it not cut?"""
    if frame.unknown is None:
        return np.zeros(len(rows), bool)
    holds = np.zeros(len(offsets) - 1, bool)
    position = np.flatnonzero(tokens == frame.unknown)
    text = np.searchsorted(offsets, position, side="right") - 1
    holds[text[position >= begin[text]]] = True  # an unknown word of the prompt is in all of them
    return holds[rows] & (frame.max_length is None or offsets[rows + 1] - offsets[rows] < frame.max_length)


def _written_hashes(texts: pl.Series) -> np.ndarray:
    """Return a hash of each text as it is written, but for case and blanks, uint64 [N]."""
    plain = texts.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    return np.array([xxhash.xxh3_64_intdigest(text) for text in plain.cast(pl.Binary)], dtype=np.uint64)


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

"""Streams, chunks and padded blocks against plain loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from conan_embed.encoder.packing import BLOCK_LENGTHS, chunks_by_tokens, gather_tokens, pack_flat

some_lengths = st.lists(st.integers(1, 700), min_size=1, max_size=40)


@given(some_lengths, st.data())
def test_gathered_tokens_are_the_texts_end_to_end(lengths, data):
    tokens = np.arange(sum(lengths), dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    text_ids = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20)), np.int64)
    flat, found = gather_tokens(tokens, offsets, text_ids)
    assert flat.dtype == np.int64
    assert flat.tolist() == [token for i in text_ids for token in range(offsets[i], offsets[i + 1])]
    assert found.tolist() == [lengths[i] for i in text_ids]


@given(some_lengths, st.integers(1, 2000))
def test_chunks_hold_each_text_once_within_the_budget(lengths, budget):
    lengths = np.array(lengths)
    chunks = list(chunks_by_tokens(lengths, budget))
    assert sorted(np.concatenate(chunks)) == list(range(len(lengths)))
    for number, chunk in enumerate(chunks):
        assert len(chunk) == 1 or lengths[chunk].sum() <= budget
        assert (np.diff(lengths[chunk]) <= 0).all()
        if number + 1 < len(chunks):  # no chunk is cut early
            assert lengths[chunk].sum() + lengths[chunks[number + 1][0]] > budget


@settings(deadline=None)
@given(some_lengths, st.booleans())
def test_blocks_hold_every_token_and_come_back(lengths, ascending):
    lengths = np.sort(lengths) if ascending else np.sort(lengths)[::-1]
    packed = pack_flat(np.concatenate([np.arange(5, 5 + length) for length in lengths]), np.array(lengths))
    blocks = packed.blocks
    assert packed.position_ids_T.tolist() == [place for length in lengths for place in range(length)]
    placed = packed.position_ids_T[blocks.to_blocks_P]
    assert (placed[blocks.from_blocks_T] == packed.position_ids_T).all()
    start, text = 0, 0
    for (texts, longest), padding in zip(blocks.shapes, blocks.key_is_padding, strict=True):
        for row in range(texts):
            length = lengths[text]
            assert placed[start : start + length].tolist() == list(range(length))
            real = np.arange(longest) < length
            assert (padding is None and real.all()) or padding[row].tolist() == (~real).tolist()
            start, text = start + longest, text + 1
    assert text == len(lengths)
    assert start == len(blocks.to_blocks_P)


@given(some_lengths)
def test_at_most_a_third_of_a_block_is_padding(lengths):
    """Beyond the shortest lengths, where a block holds everything up to 16 tokens."""
    lengths = np.sort([max(length, 17) for length in lengths])
    places = len(pack_flat(np.zeros(lengths.sum()), lengths).blocks.to_blocks_P)
    assert places <= 2 * lengths.sum()


def test_block_lengths_grow_by_at_most_a_half_up_to_the_longest_encoders():
    growth = np.array(BLOCK_LENGTHS[1:]) / BLOCK_LENGTHS[:-1]
    assert (growth[1:] <= 1.5).all()
    assert BLOCK_LENGTHS[-1] >= 8192

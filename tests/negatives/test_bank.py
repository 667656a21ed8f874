"""The bank against a dictionary from text id to the row written last."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from conan_embed.negatives.bank import PassageBank, passages_of

ids = st.lists(st.integers(0, 30), unique=True, max_size=12)


@given(ids.filter(bool), st.lists(ids, max_size=6), st.integers(1, 5))
def test_it_holds_the_newest_row_of_every_passage(passages, written, width):
    bank = PassageBank(passages_of([np.array(passages[:3]), np.array(passages, np.int64)]), width)
    rows = {text: (torch.zeros(width, dtype=torch.bfloat16), 0) for text in passages}
    generator = torch.Generator().manual_seed(0)
    for step, texts in enumerate(written, start=1):
        embedding = 5 * torch.randn(len(texts), 8, generator=generator)
        bank.write(np.array(texts, np.int64), embedding, step)
        for text, row in zip(texts, embedding, strict=True):
            if text in rows:
                rows[text] = normalize(row[:width], dim=0).bfloat16(), step
    for text, (row, _) in rows.items():
        assert torch.equal(bank.rows_of(np.array([text]))[0], row)
    ages = [len(written) - step for _, step in rows.values()]
    assert bank.age(len(written)) == (np.mean(ages), max(ages))
    for count in (0, 1, 3, 100):
        expected = sorted(rows, key=lambda text: (rows[text][1], text))[:count]
        assert sorted(expected) == sorted(bank.oldest(count).tolist())


def test_refreshing_bounds_the_age_of_every_row():
    bank = PassageBank(np.arange(100), 4)
    for step in range(1, 60):
        bank.write(bank.oldest(7), torch.randn(7, 4), step)
    assert bank.age(59)[1] <= 100 // 7


def test_state_comes_back_bit_for_bit():
    bank, other = (PassageBank(np.arange(5, 25), 4) for _ in range(2))
    bank.write(np.arange(3, 20), torch.randn(17, 8), 9)
    other.load_state(bank.state())
    assert torch.equal(bank.rows_MW, other.rows_MW)
    assert other.rows_MW.dtype == torch.bfloat16
    assert bank.written_M.tolist() == other.written_M.tolist()
    other.write(np.array([5]), torch.ones(1, 4), 10)
    assert not torch.equal(bank.rows_MW, other.rows_MW)  # a copy, not a view


def test_all_rows_are_read_without_a_copy():
    bank = PassageBank(np.array([2, 5, 7]), 4)
    bank.write(np.array([5]), torch.ones(1, 4), 1)
    assert bank.rows_of(np.array([2, 5, 7])).data_ptr() == bank.rows_MW.data_ptr()
    part = bank.rows_of(np.array([7, 5]))
    assert part.data_ptr() != bank.rows_MW.data_ptr()
    assert torch.equal(part, bank.rows_MW[[2, 1]])

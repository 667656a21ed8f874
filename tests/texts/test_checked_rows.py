"""Checks of rows against looking at each cell by itself."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.texts.checked_rows import check_rows
from conan_embed.texts.columns import RETRIEVAL, STS
from conan_embed.texts.rows import Rows

texts = st.sampled_from(["a", " ", "", None, "好"])
lists = st.none() | st.lists(st.sampled_from(["a", " ", "b"]), max_size=3)


@given(st.lists(st.tuples(texts, lists, lists), min_size=1, max_size=8))
def test_queries_and_lists(cells):
    query, positive, negative = map(list, zip(*cells, strict=True))
    frame = pl.DataFrame(
        {"query": query, "positive": positive, "negative": negative},
        schema={"query": pl.String, "positive": pl.List(pl.String), "negative": pl.List(pl.String)},
    )
    numbers = 10 + np.arange(len(cells))
    rows = check_rows(
        Rows(frame, numbers, {}, {name: [name] for name in frame.columns}, "line {}".format), RETRIEVAL
    )
    good = [
        bool(q and q.strip() and p) and all(t.strip() for t in [*(p or []), *(n or [])]) for q, p, n in cells
    ]
    assert rows.good.tolist() == good
    assert rows.num_rows == len(cells) and rows.reasons.total() == good.count(False)
    assert len(rows.good_rows()) == good.count(True)
    first = rows.first_fault()
    assert (first is None) if all(good) else first.startswith(f"line {10 + good.index(False)}: column ")


def test_faults_of_decoding_count_and_the_first_of_each_kind_is_kept():
    frame = pl.DataFrame(
        {"a": ["x", "", "y", ""], "b": ["x"] * 4, "score": [1.0, 2.0, float("nan"), 3.0]},
    )
    sources = {"text_a": ["a"], "text_b": ["b"], "score": ["score"]}
    rows = check_rows(Rows(frame, np.array([1, 2, 4, 5]), {}, sources), STS)
    assert rows.good.tolist() == [True, False, False, False]
    assert rows.reasons == {"empty text": 2, "not a number": 1}
    assert sorted(rows.faults) == [2, 4]
    assert "column 'a'" in rows.first_fault() and rows.first_fault().startswith("row 2")

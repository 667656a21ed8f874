"""Pairs as the stages take them."""

from collections.abc import Callable, Sequence

import polars as pl
import pytest

from conan_embed.filtering.language import with_languages
from conan_embed.filtering.measures import with_measures
from conan_embed.filtering.recipe import Language

MakePairs = Callable[..., pl.DataFrame]


@pytest.fixture
def make_pairs() -> MakePairs:
    """Return a function from (query, positive) texts to a batch with measures and languages."""

    def make(
        texts: Sequence[tuple[str, str]], *, category: str = "web_page", measured: bool = True
    ) -> pl.DataFrame:
        pairs = pl.DataFrame(
            {
                "id": pl.Series(range(len(texts)), dtype=pl.UInt64),
                "query": [query for query, _ in texts],
                "positive": [positive for _, positive in texts],
                "category": [category] * len(texts),
                "source": ["test"] * len(texts),
                "prompt_response": [True] * len(texts),
            }
        )
        return with_languages(with_measures(pairs), Language()) if measured else pairs

    return make

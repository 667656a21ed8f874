import polars as pl
import pytest

from conan_embed.filtering.stage import LANGUAGE_COLUMNS, PAIR_COLUMNS, REASON_COLUMNS, keep_all, split


@pytest.fixture
def numbers(make_pairs):
    return make_pairs([("q", str(n)) for n in range(6)], measured=False)


def test_first_reason_wins_and_all_are_counted(numbers):
    n = pl.col("id").cast(pl.Int64)
    reasons = {
        "odd": (n % 2 == 1, n),
        "large": (n > 2, n * 10),
        "never": (n < 0, n),
        "unknown": (pl.lit(None), n),
    }
    outcome = split(numbers, "test", reasons)
    assert outcome.kept["id"].to_list() == [0, 2]
    assert outcome.dropped.select("id", "dropped_by", "value").rows() == [
        (1, "odd", 1.0),
        (3, "odd", 3.0),
        (4, "large", 40.0),
        (5, "odd", 5.0),
    ]
    assert outcome.applied == {"odd": 3, "large": 3}
    assert outcome.dropped.columns == [*PAIR_COLUMNS, *LANGUAGE_COLUMNS, *REASON_COLUMNS]
    assert outcome.kept.columns == numbers.columns


def test_without_reasons_everything_is_kept(numbers):
    for outcome in (split(numbers, "test", {}), keep_all(numbers, "test")):
        assert outcome.kept.equals(numbers)
        assert outcome.dropped.height == 0
        assert outcome.dropped.columns == [*PAIR_COLUMNS, *LANGUAGE_COLUMNS, *REASON_COLUMNS]

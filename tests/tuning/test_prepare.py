"""Training pairs, cleaned: one row a query, texts to the character, and what search needs is never dropped."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.recipe import FilterRecipe
from conan_embed.filtering.summary import Funnel, Rows, Speed, Summary
from conan_embed.tuning import prepare
from conan_embed.tuning.prepare import MIN_PAIRS, CleanPairs, clean_pairs

TECHNICAL = [  # what the rules for web texts would drop
    ("v2.11.0 v2.12.1?", "2.11.0 | 2.12.1 | 2.13.0\n--- | --- | ---\n12 | 345 | 6789"),
    ("如何使用 `--flag`？", "`conan-embed train my.yaml step.queries=32 loss.beta=0.8`"),
    ("what is E501?", "line too long"),
    ("  spaces  stay  ", "Ｆｕｌｌ　ｗｉｄｔｈ stays，too；ﬁne"),
]


def plain(count: int) -> list[tuple[str, str]]:
    topics = ("files", "memory", "queries", "models", "logs", "disks", "parks", "weather", "rivers", "trains")
    verbs = ("open", "count", "close", "rotate", "paint", "share", "move", "weigh", "lock", "name")
    made = [
        (
            f"how do people {verb} {topic}?",
            f"To {verb} {topic}, read chapter {verb}-{topic} and follow it closely.",
        )
        for verb in verbs
        for topic in topics
    ]
    return made[:count]


def clean(folder: Path, rows: list[tuple[str, str]]) -> CleanPairs:
    pl.DataFrame(rows, ["query", "positive"], orient="row").write_parquet(folder / "pairs.parquet")
    return clean_pairs(folder / "pairs.parquet", folder / "work", folder / "clean.parquet", workers=1)


def test_pairs_of_one_query_become_one_row_in_their_order(tmp_path: Path) -> None:
    rows = [*plain(40), *TECHNICAL]
    second = "Chapter two is about something else altogether, and answers this as well."
    rows[20:20] = [(rows[3][0], second)]
    result = clean(tmp_path, [*rows, rows[5], rows[5]])
    expected: dict[str, list[str]] = {}
    for query, positive in rows:
        expected.setdefault(query, []).append(positive)
    assert list(pl.read_parquet(result.path).iter_rows()) == list(expected.items())
    assert (result.queries, result.kept, result.dropped) == (len(expected), len(rows), 2)
    assert sum(result.reasons.values()) == 2 and all(result.reasons.values())
    assert (
        result.sentence()
        == f"{len(expected)} training queries; the filter dropped 2 of {len(rows) + 2} pairs"
    )


def filter_that_keeps(count: int) -> Callable[..., Summary]:
    """A filter that keeps the first pairs and writes no file where none is left."""

    def filter_pairs(recipe: FilterRecipe, output: Path) -> Summary:
        pairs = pl.read_parquet(recipe.sources[0].path).with_row_index("id")
        if count:
            (output / "kept" / "pairs").mkdir(parents=True)
            pairs.head(count).write_parquet(output / "kept" / "pairs" / "00000.parquet")
        rows = Rows(len(pairs), count, len(pairs) - count)
        return Summary(rows, Speed(0.0, None, 1, {}), Funnel([], {}, {}), {}, [])

    return filter_pairs


@pytest.mark.parametrize("count", [0, 1, MIN_PAIRS - 1, MIN_PAIRS])
def test_too_few_pairs_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(prepare, "filter_pairs", filter_that_keeps(count))
    if count >= MIN_PAIRS:
        assert clean(tmp_path, plain(40)).queries == count
        return
    message = rf"pairs\.parquet: {count} training pairs are left after cleaning, expected {MIN_PAIRS} or more"
    with pytest.raises(UserError, match=message):
        clean(tmp_path, plain(40))
    assert not (tmp_path / "clean.parquet").exists()

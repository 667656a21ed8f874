"""What keeps negatives from being replaced is told before the run, and nothing else is."""

import numpy as np
import pytest

from conan_embed.negatives.outlook import obstacles, shortages
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Replacement, Step
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.tasks import RetrievalDataset


def told(*, initial=0.6, background=0.1, ranks=20, num_steps=1000, epochs=5.0, kind="mined", **settings):
    table = NegativeTable(np.arange(4 * ranks, dtype=np.int32).reshape(4, ranks), 5, np.full((4, 5), initial))
    table.background = background
    settings = Replacement(**({"source": "ranking"} | settings))
    sets = [dataset("one", 3, kind), dataset("two", 1, kind)]
    return " | ".join(obstacles(settings, table, sets, num_steps=num_steps, epochs=epochs))


@pytest.mark.parametrize("rule", ["mean", "each", "share"])
def test_nothing_stands_in_the_way(rule):
    assert told(rule=rule) == ""
    assert told(rule=rule, epochs=1.0) == ""  # S_0 is known: one visit is enough
    assert told(rule=rule, initial=np.nan, epochs=2.5) == ""
    assert told(rule=rule, initial=np.nan, epochs=None) == ""


def test_static_negatives_stay_by_choice():
    assert told(source="static", num_steps=5, ranks=5) == ""


def test_too_few_steps():
    sentence = told(num_steps=100)
    assert "first check comes after step 100, and the run has 100 steps" in sentence
    assert told(num_steps=101) == ""


def test_too_few_visits():
    assert "all 4 queries will keep their negatives: S_0 is not known" in told(initial=np.nan, epochs=1.0)
    assert "S_0" in told(initial=np.nan, epochs=1.1)  # before the last check at step 900 of 1000
    assert told(initial=np.nan, epochs=1.0, rule="share") == ""


def test_rankings_that_are_used_up_from_the_start():
    assert "all 4 queries will keep their negatives: their ranking has no further window" in told(ranks=9)
    assert told(ranks=9, rule="each") == ""  # one rank is enough
    assert "no further rank" in told(ranks=5, rule="share")
    assert told(ranks=9, on_exhausted="restart") == ""
    assert told(ranks=9, source="bank") == ""


@pytest.mark.parametrize("source", ["ranking", "bank", "remine"])
@pytest.mark.parametrize("kind", ["given", "random"])
def test_lists_that_are_used_up_are_told_whatever_the_source(source, kind):
    """Only what is mined is ranked anew."""
    sentence = told(ranks=9, source=source, kind=kind)
    assert (
        "all 4 queries will keep their negatives: their list has no further window; expected more" in sentence
    )
    assert told(ranks=10, source=source, kind=kind) == ""
    assert told(ranks=9, source=source, kind=kind, on_exhausted="restart") == ""


def test_data_sets_without_negatives_stand_in_nobodys_way():
    assert told(ranks=5, initial=np.nan, epochs=1.0, kind="none") == ""
    table = NegativeTable(np.tile(np.arange(9, dtype=np.int32), (4, 1)), 5, np.full((4, 5), np.nan))
    sets = [dataset("one", 3, "none"), dataset("two", 1)]
    sentences = obstacles(Replacement(source="ranking"), table, sets, num_steps=1000, epochs=1.0)
    assert [sentence.split(" will")[0] for sentence in sentences] == ["all 1 queries"] * 2


def test_bounds_below_the_cosine_of_unrelated_texts():
    """E5: all cosines above 0.75."""
    high = {"initial": 0.82, "background": 0.75}
    assert "mean cosine is 0.75" in told(**high)  # 0.82 / 1.15 = 0.71
    assert "mean cosine is 0.75" in told(**high, rule="each", max_score=0.7)
    assert told(**high, subtract_background=True) == ""
    assert told(**high, rule="share") == ""
    assert told(initial=0.9, background=0.75) == ""
    assert told(initial=0.3, background=0.5, rule="each") == ""  # too easy from the start


def dataset(name, queries, source="mined"):
    nothing = Ragged.empty(queries)
    ids = np.arange(queries)
    return RetrievalDataset(name, ids, ids, nothing, nothing, ids, source, None, None)


def short(*available, in_batch="dataset", source="mined"):
    """Sentences on two data sets; the first has two queries."""
    ranking = np.full((len(available), 6), -1, np.int32)
    for row, count in enumerate(available):
        ranking[row, :count] = np.arange(count)
    sets = [dataset("one", 2, source), dataset("two", len(available) - 2)]
    settings = Step(num_negatives=3, in_batch=in_batch, too_few_negatives="allow")
    return shortages(sets, NegativeTable(ranking, 3), settings)


def test_queries_with_too_few_negatives_are_told_by_data_set():
    assert short(3, 4, 3, 6) == []
    (sentence,) = short(3, 4, 2, 6, 0)
    assert sentence.startswith(
        "2 of 3 queries of 'two' have fewer than 3, 1 of them none: these have only those of other queries; expected"
    )
    (sentence,) = short(2, 1, 3, in_batch="none")
    assert sentence.startswith("all 2 queries of 'one' have fewer than 3; expected a mining.min_usable")
    assert "1 of them none: these learn nothing;" in short(0, 3, 3, in_batch="none")[0]
    assert short(0, 0, 3, source="none") == []

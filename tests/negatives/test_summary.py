"""Figures of what was mined, against the arrays that they are taken from."""

from dataclasses import replace

import numpy as np
import pytest

from conan_embed.negatives.mining import mine
from conan_embed.negatives.summary import summarize
from conan_embed.recipes.sections import Mining
from tests.negatives.test_mining import embed_from, embeddings, make_set


def test_figures_and_examples(tmp_path, capsys):
    queries = [f"q{i}" for i in range(5)]
    data, store = make_set(tmp_path, queries, [[f"p{i}"] for i in range(5)], [f"w{i}" for i in range(12)])
    chosen = Mining(depth=9, offset=0, max_positive_ratio=0.9, precision="float32")
    ranking = mine(data, store, embed_from(embeddings(store)), chosen)
    facts = summarize(data, store, ranking, Mining(depth=9, offset=2, min_usable=7), examples=2).to_json()
    scores = ranking.scores_QK[:, 2:]
    assert (facts["queries"], facts["passages"], facts["ranks"]) == (5, 17, 9)
    assert facts["mean_positive_score"] == pytest.approx(ranking.positive_Q.mean())
    assert facts["mean_negative_score"] == pytest.approx(scores[np.isfinite(scores)].mean(), rel=1e-5)
    assert facts["too_few"] == (np.isfinite(scores).sum(axis=1) < 7).sum() > 0
    assert facts["usable_per_query"] == pytest.approx(np.isfinite(scores).sum() / 5)
    assert [example["query"] for example in facts["examples"]] == ["q0", "q4"]
    assert [n["rank"] for n in facts["examples"][0]["negatives"]] == [2, 3, 4][
        : int(np.isfinite(scores[0]).sum())
    ]


def test_figures_of_a_collection_smaller_than_the_offset(tmp_path):
    data, store = make_set(tmp_path, ["q"], [["p"]], ["w"])
    chosen = Mining(depth=5, offset=10, precision="float32")
    ranking = mine(data, store, embed_from(embeddings(store)), chosen)
    facts = summarize(data, store, ranking, chosen).to_json()
    assert (facts["usable_per_query"], facts["mean_negative_score"], facts["negatives_above_positive"]) == (
        0.0,
        None,
        0.0,
    )


@pytest.mark.parametrize(("negative", "warns"), [(0.61, True), (0.59, False), (None, False)])
def test_negatives_above_the_positives_are_said(tmp_path, capsys, negative, warns):
    data, store = make_set(tmp_path, ["q"], [["p"]], ["w"])
    chosen = Mining(depth=5, offset=0, precision="float32")
    summary = summarize(data, store, mine(data, store, embed_from(embeddings(store)), chosen), chosen)
    replace(summary, mean_positive_score=0.6, mean_negative_score=negative).print("faq")
    assert ("faq: the first negatives score above the positives" in capsys.readouterr().err) == warns

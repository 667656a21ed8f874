"""Mining in Python: the ranking of a full sort, saved as recipes read it, and the false negatives in it."""

from pathlib import Path

import numpy as np
import polars as pl

import conan_embed as ce
from conan_embed.encoder.model import EmbeddingModel
from tests.support.docs import FAQ, bundled_model


def test_mined_negatives_are_those_of_a_full_sort(model: EmbeddingModel, faq: Path) -> None:
    """float64 reference: all cosines, the query's positive left out, sorted."""
    frame = ce.mine_hard_negatives(model, faq, depth=11, precision="float32").to_frame()
    queries, documents = zip(*FAQ, strict=True)
    query_QD = model.encode(queries, prompt=model.prompts["query"], precision="float32").astype(float)
    document_CD = model.encode(documents, prompt=model.prompts["passage"], precision="float32").astype(float)
    score_QC = query_QD @ document_CD.T
    for row, query in enumerate(queries):
        order = [column for column in np.argsort(-score_QC[row]) if column != row]
        mined = frame.filter(pl.col("query") == query)
        assert mined["negative"].to_list() == [documents[column] for column in order]
        np.testing.assert_allclose(mined["score"], score_QC[row, order], atol=1e-5)
        np.testing.assert_allclose(mined["positive_score"], score_QC[row, row], atol=1e-5)
        assert mined["rank"].to_list() == list(range(11))
        assert {*mined["positive"]} == {documents[row]}


def test_a_corpus_can_be_texts_a_frame_or_a_file(model: EmbeddingModel, faq: Path) -> None:
    texts = [f"a passage about number {i}" for i in range(5)]
    frame = pl.DataFrame({"text": texts})
    frame.write_parquet("corpus.parquet")
    found = [
        ce.mine_hard_negatives(model, faq, corpus=corpus, depth=3).to_frame()
        for corpus in (texts, frame, "corpus.parquet")
    ]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])


def test_offset_leaves_out_the_first_ranks(model: EmbeddingModel, faq: Path) -> None:
    whole = ce.mine_hard_negatives(model, faq, depth=6).to_frame()
    later = ce.mine_hard_negatives(model, faq, depth=4, offset=2).to_frame()
    assert later["negative"].to_list() == whole.filter(pl.col("rank") >= 2)["negative"].to_list()


def test_false_negatives_are_those_within_the_margin(model: EmbeddingModel, faq: Path) -> None:
    """Planted: every positive also stands in the corpus in other words."""
    twins = [f"{positive} Thank you." for _, positive in FAQ]
    mined = ce.mine_hard_negatives(model, faq, corpus=twins, depth=5)
    suspects = ce.find_false_negatives(model, mined, margin=0.1)
    planted = {(query, twin) for (query, _), twin in zip(FAQ, twins, strict=True)}
    found = {*suspects.select("query", "negative").rows()}
    assert len(planted & found) >= 10
    gaps = suspects["negative_score"] - suspects["positive_score"]
    assert gaps.min() >= -0.1  # type: ignore[operator]
    assert gaps.is_sorted(descending=True)
    assert ce.find_false_negatives(model, mined, margin=-1.0).is_empty()


def test_saved_negatives_are_what_a_recipe_reads(model: EmbeddingModel, faq: Path) -> None:
    folder = ce.mine_hard_negatives(model, faq, depth=8).save("rankings")
    recipe = ce.Recipe.small(model=bundled_model(), retrieval={"path": faq, "ranking": folder}, output="run")
    run = ce.train(
        recipe.with_(
            training={"steps": 1}, step={"queries": 4, "num_negatives": 2}, mining={"offset": 0, "depth": 8}
        )
    )
    assert len(run.history) == 1

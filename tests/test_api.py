"""The public API: light to import, forgiving about where data comes from, and clear about mistakes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import conan_embed as ce
from conan_embed.encoder.model import EmbeddingModel
from tests.support.docs import FAQ, bundled_model, write_faq

HEAVY = ("torch", "transformers", "polars", "numpy", "pydantic")


def fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def model() -> EmbeddingModel:
    return ce.load_model(bundled_model())


@pytest.fixture
def faq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_faq(tmp_path)


# ------------------------------------------------------------------------------------------------ importing


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = fresh_python("import conan_embed, sys; print(*sys.modules)").split()
    assert not {*HEAVY} & {*loaded}


def test_every_public_name_is_listed_and_resolves() -> None:
    names = fresh_python("import conan_embed as ce; print(*(n for n in dir(ce) if n in ce.__all__))").split()
    assert names == sorted(ce.__all__)
    assert all(getattr(ce, name).__name__ == name for name in ce.__all__)


def test_type_checkers_see_the_same_names() -> None:
    source = Path(ce.__file__).read_text(encoding="utf-8")
    imported = {
        line.split(" as ")[1] for line in source.splitlines() if line.startswith("    from conan_embed.")
    }
    assert imported == {*ce.__all__}


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        ce.trian  # noqa: B018


# -------------------------------------------------------------------------------------------------- pairs


def in_memory(kind: str) -> Any:
    rows = [{"query": query, "positive": positive} for query, positive in FAQ]
    return {"dicts": rows, "polars": pl.DataFrame(rows), "pandas": pl.DataFrame(rows).to_pandas()}[kind]


@pytest.mark.parametrize("kind", ["dicts", "polars", "pandas"])
def test_pairs_from_memory_equal_those_from_a_file(kind: str, faq: Path) -> None:
    assert ce.read_pairs(in_memory(kind)).to_frame().equals(ce.read_pairs(faq).to_frame())


def test_pairs_from_memory_name_the_bad_row() -> None:
    rows = [{"query": "a", "positive": "b"}, {"query": " ", "positive": "c"}]
    with pytest.raises(
        ce.UserError, match="data in memory: row 2: column 'query': found a text with nothing to read"
    ):
        ce.read_pairs(rows)


@pytest.mark.parametrize("nothing", [[], pl.DataFrame({"query": [], "positive": []})])
def test_no_pairs_are_an_error(nothing: Any) -> None:
    with pytest.raises(ce.UserError, match="found no rows"):
        ce.read_pairs(nothing)


def test_a_value_that_is_no_table_is_an_error() -> None:
    with pytest.raises(ce.UserError, match="cannot be read as a table"):
        ce.read_pairs(3)  # type: ignore[arg-type]


def test_split_keeps_equal_queries_together() -> None:
    rows = [{"query": f"q{i % 10}", "positive": f"p{i}"} for i in range(40)]
    train, test = ce.read_pairs(rows).split(0.3, seed=1)
    assert (len(train), len(test)) == (28, 12)
    assert not {*train.frame["query"]} & {*test.frame["query"]}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_split_refuses_an_empty_side(share: float) -> None:
    with pytest.raises(ce.UserError, match="leaves one side empty"):
        ce.read_pairs(in_memory("dicts")).split(share)


def test_pairs_print_a_line_each() -> None:
    text = repr(ce.read_pairs([{"query": "a\nb", "positive": "x" * 100}]))
    assert text.splitlines()[1] == f"  a b  ->  {'x' * 59}…"


# ------------------------------------------------------------------------------------------------ recipes


def test_recipe_trains_on_pairs_from_memory_and_from_a_file(faq: Path) -> None:
    of_file = ce.Recipe.small(model="m", retrieval=ce.read_pairs(faq)).data.retrieval[0]
    of_memory = ce.Recipe.small(model="m", retrieval=ce.read_pairs(in_memory("dicts"))).data.retrieval[0]
    assert of_file.path == str(faq)
    assert ce.read_pairs(of_memory.path).to_frame().equals(ce.read_pairs(faq).to_frame())


def test_recipe_keeps_named_columns(tmp_path: Path) -> None:
    path = tmp_path / "faq.csv"
    path.write_text("title,body\nHow?,So.\n")
    pairs = ce.read_pairs(path, columns={"query": "title", "positive": "body"})
    assert ce.Recipe.small(model="m", retrieval=pairs).data.retrieval[0].columns == {
        "query": "title",
        "positive": "body",
    }


def test_with_replaces_lists_whole_and_merges_sections() -> None:
    recipe = ce.Recipe.small(model="m", retrieval="a.jsonl")
    changed = recipe.with_(data={"retrieval": [{"name": "b", "path": Path("b.jsonl")}]}, step={"queries": 8})
    assert [data.name for data in changed.data.retrieval] == ["b"]
    assert changed.step == recipe.step.model_copy(update={"queries": 8})
    assert recipe.step.queries == 32


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stepp": {}}, r"Recipe.with_: stepp: unknown key \(did you mean 'step'\?\)"),
        ({"step": {"queries": -1}}, "Recipe.with_: step.queries: found -1; input should be greater than"),
    ],
)
def test_with_refuses_what_a_recipe_does_not_have(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ce.UserError, match=sentence):
        ce.Recipe.small(model="m", retrieval="a.jsonl").with_(**changes)


# ---------------------------------------------------------------------------------------------- negatives


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


# ----------------------------------------------------------------------------------------------- training


def test_a_run_has_its_model_history_report_and_checkpoints(faq: Path) -> None:
    recipe = ce.Recipe.small(model=bundled_model(), retrieval=faq, output="run").with_(
        training={"steps": 3, "checkpoint_every": 2}, step={"queries": 4, "num_negatives": 1}
    )
    run = ce.train(recipe)
    assert run.history["step"].to_list() == [1, 2, 3]
    assert [path.name for path in run.checkpoints] == ["step-00000002", "step-00000003"]
    assert run.report.read_text().startswith("<!DOCTYPE html>")
    assert run.model.encode(["a text"]).shape == (1, 384)
    assert run.model is run.model
    again = ce.train(recipe)  # finished: nothing is trained again
    assert again.history.equals(run.history)


def test_training_on_a_missing_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ce.UserError, match=r"gone\.jsonl: no such file"):
        ce.train(ce.Recipe.small(model=bundled_model(), retrieval="gone.jsonl", output="run"))


# ---------------------------------------------------------------------------------------------- filtering


def test_filter_keeps_clean_pairs_and_writes_a_report(faq: Path) -> None:
    summary = ce.filter_pairs(ce.FilterRecipe(sources=[{"path": str(faq)}]), "clean")  # type: ignore[arg-type]
    assert (summary.read, summary.kept) == (12, 12)
    assert Path("clean/report.html").exists()


# --------------------------------------------------------------------------- evaluation, comparison, search


def test_pairs_score_as_a_reciprocal_rank_of_theirs(model: EmbeddingModel, faq: Path) -> None:
    """Each query has one positive, so that nDCG@10 is the mean of 1 / log2(rank + 2), from float64 cosines."""
    distractors = [query for query, _ in FAQ]  # a question is nearer to itself than any answer
    result = ce.evaluate(model, ce.read_pairs(faq), corpus=distractors)["retrieval/faq"]
    queries, positives = (list(side) for side in zip(*FAQ, strict=True))
    query_QD, document_CD = (
        model.encode(texts).astype(float) for texts in (queries, [*positives, *distractors])
    )
    score_QC = query_QD @ document_CD.T
    rank_Q = (score_QC > score_QC.diagonal()[:, None]).sum(axis=1)
    expected = np.where(rank_Q < 10, 1 / np.log2(rank_Q + 2), 0).mean()
    assert 0 < expected < 1
    assert result.main == pytest.approx(expected, abs=1e-6)


def test_differences_are_paired_by_item_and_their_interval_covers_them(
    model: EmbeddingModel, faq: Path
) -> None:
    pairs, corpus = ce.read_pairs(faq), [query for query, _ in FAQ[:6]]  # half of the queries get harder
    easy, hard = ce.evaluate(model, pairs), ce.evaluate(model, pairs, corpus=corpus)
    row = ce.compare_scores(hard, easy).row(0, named=True)
    assert row["difference"] == pytest.approx(row["after"] - row["before"])
    assert 0 < row["low"] < row["difference"] < row["high"]


def test_other_items_cannot_be_compared(model: EmbeddingModel, faq: Path) -> None:
    pairs = ce.read_pairs(faq)
    all_of_them, few = ce.evaluate(model, pairs), ce.evaluate(model, pairs.head(5))
    with pytest.raises(ce.UserError, match="12 items before and 5 after"):
        ce.compare_scores(all_of_them, few)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"arms": {}}, "found no arms"),
        ({"arms": {"a": {}}, "seeds": [1, 1]}, "expected different ones"),
        ({"arms": {"a": {"step": {"querys": 1}}}}, "did you mean 'queries'"),
    ],
)
def test_compare_finds_mistakes_before_it_trains(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ce.UserError, match=sentence):
        ce.compare(ce.Recipe.small(model="m", retrieval="a.jsonl"), **arguments)


def test_index_is_an_exact_search(model: EmbeddingModel, faq: Path) -> None:
    documents = [positive for _, positive in FAQ]
    hits = ce.Index(model, documents).search([query for query, _ in FAQ], k=4)
    query_QD, document_CD = (model.encode(texts).astype(float) for texts in ([q for q, _ in FAQ], documents))
    expected_QK = np.argsort(-(query_QD @ document_CD.T), axis=1)[:, :4]
    assert hits["text"].to_list() == [documents[column] for column in expected_QK.ravel()]


def test_an_empty_query_is_an_error(model: EmbeddingModel, faq: Path) -> None:
    with pytest.raises(ce.UserError, match="expected some text"):
        ce.Index(model, ["a passage"]).search(" ")

"""int8 and binary vectors: rankings and scores against integers and counted bits."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from conan_embed.errors import UserError
from conan_embed.evaluation import evaluate
from conan_embed.evaluation.cached_encoder import prefix
from conan_embed.evaluation.results import EvaluationResult
from conan_embed.evaluation.scorers import RetrievalScorer
from conan_embed.evaluation.stored import Stored, kinds_from
from conan_embed.evaluation.table import kept
from conan_embed.search.exact import top_k
from tests.evaluation.test_table import lines
from tests.support.evaluation_fakes import BagOfWords, small_tables, write_tables


def unit_rows(count: int, width: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("width", [8, 20, 48])
def test_binary_vectors_rank_by_hamming_distance_and_among_equals_by_number(width):
    queries, documents = unit_rows(7, 48), unit_rows(200, 48, seed=1)
    bits = [np.packbits(rows[:, :width] > 0, axis=1) for rows in (queries, documents)]
    distance_QC = np.unpackbits(bits[0][:, None] ^ bits[1][None], axis=2).sum(axis=2)
    expected = [sorted(range(200), key=lambda c, q=q: (distance_QC[q, c], c)) for q in range(7)]
    form = Stored("binary", width)
    found = top_k(torch.from_numpy(form.of(queries)), torch.from_numpy(form.of(documents)), 200)[1]
    assert found.tolist() == expected
    assert form.num_bytes == bits[0].shape[1]


def test_int8_vectors_are_whole_steps_of_the_largest_number():
    vectors = np.concatenate([unit_rows(50, 24), np.zeros((1, 24), np.float32)])
    stored = Stored("int8", 16).of(vectors)
    for row, given in zip(stored[:50], vectors[:50, :16].astype(np.float64), strict=True):
        whole = np.array([round(127 * number / max(abs(given))) for number in given])
        assert np.abs(whole).max() == 127
        assert row == pytest.approx(whole / np.sqrt((whole**2).sum()), abs=1e-7)
    assert (stored[50] == 0).all()
    assert Stored("int8", 16).num_bytes == 16


def test_an_evaluation_scores_stored_vectors_of_every_width(tmp_path):
    """A model that gives the stored vectors itself has the same scores, for every type of task."""
    folder, model = write_tables(tmp_path, small_tables()), BagOfWords(32)
    result = evaluate(model, folder, widths=[12], vectors=["int8", "binary"])
    assert evaluate(model, folder, widths=[12]).average == result.average

    class StoringModel(BagOfWords):
        def encode(self, texts, *, prompt=""):
            first = super().encode(texts, prompt=prompt)[:, : form.width]
            if form.kind == "binary":
                return np.where(first > 0, 1, -1).astype(np.float32)
            whole = np.rint(127 * first.astype(np.float64) / np.abs(first).max(axis=1, keepdims=True))
            return (whole / np.linalg.norm(whole, axis=1, keepdims=True)).astype(np.float32)

    for form in (Stored(kind, width) for kind in ("int8", "binary") for width in (32, 12)):
        storing = StoringModel(32)
        storing.width = form.width
        for key, task in result.items():
            if key.split("/")[0] in ("retrieval", "reranking", "sts", "pair_classification", "bitext"):
                expected = evaluate(storing, folder, tasks=[key])[key].main
                # Rounding parts the storing model's pairs of one Hamming distance.
                near = 0.02 if form.kind == "binary" and task.metric.startswith(("cosine", "map")) else 1e-6
                assert task.stored[str(form)][task.metric] == pytest.approx(expected, abs=near), (key, form)
            assert task.stored[str(form)].keys() <= task.scores.keys()
    assert EvaluationResult.from_json(result.to_json()) == result


def test_retrieval_with_binary_vectors_finds_what_counted_bits_find(tmp_path):
    folder, model = write_tables(tmp_path, small_tables()), BagOfWords(32)
    scorer = RetrievalScorer(model, folder / "retrieval" / "Small", None)
    queries, documents = scorer.queries.all(None) > 0, scorer.documents.all(None) > 0
    distance = (queries[:, None] != documents[None]).sum(axis=2)
    expected = [
        sorted(range(len(documents)), key=lambda c, q=q: (distance[q, c], c)) for q in range(len(queries))
    ]
    assert scorer.found(Stored("binary", 32))[:, : len(documents)].tolist() == expected


def test_pairs_of_one_hamming_distance_are_ties(tmp_path):
    tables, model = small_tables(), BagOfWords(32)
    folder = write_tables(tmp_path, tables)
    first, second = (
        model.encode([row[side] for row in tables["sts/Small"]]) > 0 for side in ("text_a", "text_b")
    )
    expected = spearmanr(
        (first == second).sum(axis=1), [row["score"] for row in tables["sts/Small"]]
    ).statistic
    scores = evaluate(model, folder, tasks=["sts/Small"], vectors=["binary"])["sts/Small"].stored["binary 32"]
    assert scores["cosine_spearman"] == pytest.approx(expected, abs=1e-9)


def test_the_table_says_what_is_kept(tmp_path):
    folder = write_tables(tmp_path, small_tables())
    result = evaluate(BagOfWords(32), folder, tasks=["retrieval"], widths=[12], vectors=["binary"])
    main, of_width = (100 * score for score in (result.average, result["retrieval/Small"].by_width[12]))
    binary = [100 * result["retrieval/Small"].stored[f"binary {width}"]["ndcg_at_10"] for width in (32, 12)]
    rows = lines(kept(result))
    assert rows[1:] == [
        [kind, width, size, f"{score:.2f}", f"{100 * score / main:.1f} %", f"{score:.2f}"]
        for kind, width, size, score in (
            ("float32", "32", "128", main),
            ("binary", "32", "4", binary[0]),
            ("float32", "12", "48", of_width),
            ("binary", "12", "2", binary[1]),
        )
    ]
    assert kept(evaluate(BagOfWords(32), folder, tasks=["sts"])) is None


def test_kinds():
    assert kinds_from(["binary, int8"]) == ["int8", "binary"]
    assert kinds_from(None) == []
    with pytest.raises(UserError, match=r"vectors 'int9': no such kind \(did you mean 'int8'\?\)"):
        kinds_from(["int9"])
    vectors = unit_rows(3, 8)
    assert prefix(vectors, 8) is vectors

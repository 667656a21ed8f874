"""Block search against one full matrix product and a stable sort."""

import numpy as np
import pytest
import torch
from torch import Tensor

from conan_embed.search import exact
from conan_embed.search.exact import top_k


def unit_rows(num: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(num, width, generator=generator), dim=1)


def whole_numbers(num: int, width: int, seed: int, high: int = 4) -> Tensor:
    """Small whole numbers: dot products are exact in float32, and many of them are equal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-high, high, (num, width), generator=generator).float()


def reference(queries: Tensor, corpus: Tensor, k: int, hidden: list[set[int]] | None = None):
    """All scores in float64, the hidden ones -inf, sorted by score and then index."""
    scores = (queries.double() @ corpus.double().T).numpy()
    for row, ids in enumerate(hidden or []):
        scores[row, list(ids)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), order


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "CORPUS_BLOCK", 96)
    monkeypatch.setattr(exact, "SCORES_BLOCK", 96 * 7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 3, 20, 95, 120])
@pytest.mark.parametrize("num_rows", [96, 300, 121])
def test_equals_a_stable_sort_of_all_scores_ties_included(num_rows: int, k: int) -> None:
    queries, corpus = whole_numbers(23, 3, seed=0), whole_numbers(num_rows, 3, seed=1)
    scores, indices = top_k(queries, corpus, k)
    expected_scores, expected_indices = reference(queries, corpus, k)
    width = min(k, num_rows)
    assert scores.dtype == torch.float32
    assert indices.dtype == torch.int64
    np.testing.assert_array_equal(indices[:, :width].numpy(), expected_indices)
    np.testing.assert_array_equal(scores[:, :width].numpy(), expected_scores)


def test_zero_and_minus_zero_are_a_tie() -> None:
    corpus = torch.tensor([[-1.0], [0.0], [-0.0], [0.0]])
    _, indices = top_k(torch.tensor([[1.0]]), corpus, 4)
    assert indices.tolist() == [[1, 2, 3, 0]]


def test_rows_that_do_not_exist_are_minus_one() -> None:
    scores, indices = top_k(unit_rows(2, 8, seed=0), unit_rows(3, 8, seed=1), 5)
    assert (indices[:, 3:] == -1).all()
    assert (scores[:, 3:] == -torch.inf).all()
    assert (indices[:, :3].sort(dim=1).values == torch.arange(3)).all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_excluded_rows_are_never_returned(precision) -> None:
    queries, corpus = whole_numbers(30, 4, seed=2), whole_numbers(200, 4, seed=3)
    generator = np.random.default_rng(4)
    # Between none and all but two of the rows, among them every query's best ones.
    best = top_k(queries, corpus, 10)[1].numpy()
    hidden = [set(generator.choice(200, size=int(size), replace=False)) for size in np.linspace(0, 198, 30)]
    hidden = [set() if not ids else (ids | set(row)) for ids, row in zip(hidden, best.tolist(), strict=True)]
    offsets = torch.tensor(np.cumsum([0, *map(len, hidden)]))
    indices = torch.tensor(np.concatenate([sorted(ids, reverse=True) for ids in hidden]), dtype=torch.int64)

    _, found = top_k(queries, corpus, 12, exclude=(offsets, indices), precision=precision)

    expected_scores, expected = reference(queries, corpus, 12, hidden)
    expected[np.isinf(expected_scores)] = -1
    assert (found == -1).any()  # the longest lists leave fewer than 12 rows
    np.testing.assert_array_equal(found.numpy(), expected)  # small whole numbers are exact in bfloat16, too


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("longest", [5, 150])
@pytest.mark.parametrize("most_lists", [1, 3])
def test_excluded_lists_may_be_shared_by_queries(precision, longest: int, most_lists: int) -> None:
    """Short lists and lists of most of the corpus, that overlap; queries with one, several, or none of them."""
    generator = np.random.default_rng(23)
    queries, corpus = whole_numbers(40, 4, seed=24), whole_numbers(200, 4, seed=25)
    lists = [generator.choice(200, size=generator.integers(0, longest), replace=False) for _ in range(9)]
    one = most_lists == 1  # each query has a list, or some have none and some have several
    lists_of = [
        generator.choice(9, size=1 if one else generator.integers(0, 4), replace=False) for _ in range(40)
    ]
    hidden = [{int(row) for number in numbers for row in lists[number]} for numbers in lists_of]

    def compressed(rows):
        return torch.tensor(np.cumsum([0, *map(len, rows)])), torch.from_numpy(np.concatenate(rows))

    _, found = top_k(
        queries,
        corpus,
        30,
        precision=precision,
        exclude=compressed(lists),
        exclude_lists=compressed(lists_of),
    )
    expected_scores, expected = reference(queries, corpus, 30, hidden)
    expected[np.isinf(expected_scores)] = -1
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("num_queries", [1, 23])
@pytest.mark.parametrize("k", [1, 5, 95, 250])
def test_only_rows_below_a_score_are_returned(k: int, num_queries: int) -> None:
    """The first k under a bound of each query's own: ties with the bound are not under it, those among them count."""
    queries, corpus = whole_numbers(num_queries, 3, seed=20), whole_numbers(200, 3, seed=21)
    generator = np.random.default_rng(22)
    hidden = [set(generator.choice(200, size=9, replace=False).tolist()) for _ in range(num_queries)]
    all_scores = (queries.double() @ corpus.double().T).numpy()
    rank = generator.integers(0, 200, num_queries)
    below = -np.sort(-all_scores, axis=1)[np.arange(num_queries), rank]  # a score that occurs, at any rank
    below[:3] = [below[0], np.inf, all_scores.min()][:num_queries][:3]  # nothing is taken out, or all
    taken_out = [hidden[q] | set(np.flatnonzero(all_scores[q] >= below[q])) for q in range(num_queries)]
    offsets = torch.tensor(np.cumsum([0, *map(len, hidden)]))
    indices = torch.tensor([row for each in hidden for row in each], dtype=torch.int64)

    scores, found = top_k(
        queries, corpus, k, exclude=(offsets, indices), below=torch.from_numpy(below).float()
    )

    expected_scores, expected = reference(queries, corpus, k, taken_out)
    expected[np.isinf(expected_scores)] = -1
    width = min(k, 200)
    np.testing.assert_array_equal(found[:, :width].numpy(), expected)
    np.testing.assert_array_equal(scores[:, :width].numpy(), expected_scores)
    assert (found[:, width:] == -1).all()


def test_real_numbers_agree_with_one_full_product_to_rounding() -> None:
    queries, corpus = unit_rows(50, 64, seed=5), unit_rows(40_000, 64, seed=6)
    scores, indices = top_k(queries, corpus, 10)
    expected_scores, expected_indices = reference(queries, corpus, 10)
    np.testing.assert_allclose(scores.numpy(), expected_scores, atol=1e-6)
    assert (indices.numpy() == expected_indices).mean() > 0.999  # rounding may swap two neighbours


def test_bfloat16_finds_nearly_all_and_scores_them_in_float32() -> None:
    # Queries near corpus rows, as in retrieval, over a corpus of clusters, as texts are.
    centres = unit_rows(200, 128, seed=7)
    corpus = torch.nn.functional.normalize(
        centres.repeat(100, 1) + 0.7 * unit_rows(20_000, 128, seed=8), dim=1
    )
    queries = torch.nn.functional.normalize(corpus[:200] + 0.5 * unit_rows(200, 128, seed=9), dim=1)
    scores, indices = top_k(queries, corpus, 100, precision="bfloat16")
    _, exact_indices = top_k(queries, corpus, 100)
    pairs = zip(indices.tolist(), exact_indices.tolist(), strict=True)
    recall = sum(len(set(found) & set(true)) for found, true in pairs) / indices.numel()
    assert recall > 0.999
    found_rows = corpus[indices].double()
    np.testing.assert_allclose(
        scores.numpy(), torch.einsum("qkd,qd->qk", found_rows, queries.double()), atol=1e-6
    )
    assert (scores.diff(dim=1) <= 0).all()


def test_bfloat16_survives_a_direction_shared_by_all_texts() -> None:
    # Cosines between 0.9 and 1, as some models give them: eight bits hold three steps of 1/256 per 0.01.
    shared = 4 * unit_rows(1, 128, seed=14)
    corpus = torch.nn.functional.normalize(shared + unit_rows(20_000, 128, seed=15), dim=1)
    queries = torch.nn.functional.normalize(shared + unit_rows(100, 128, seed=16), dim=1)
    _, indices = top_k(queries, corpus, 10, precision="bfloat16")
    _, exact_indices = top_k(queries, corpus, 10)
    pairs = zip(indices.tolist(), exact_indices.tolist(), strict=True)
    assert sum(len(set(found) & set(true)) for found, true in pairs) / indices.numel() > 0.99


def test_the_corpus_may_be_stored_in_bfloat16() -> None:
    queries, corpus = unit_rows(5, 16, seed=10), unit_rows(50, 16, seed=11).bfloat16()
    scores, indices = top_k(queries, corpus, 5)
    full_scores, full_indices = top_k(queries, corpus.float(), 5)
    assert torch.equal(scores, full_scores)
    assert torch.equal(indices, full_indices)


def test_no_tensor_is_larger_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "CORPUS_BLOCK", 1024)
    monkeypatch.setattr(exact, "SCORES_BLOCK", 1024 * 16)
    queries, corpus = unit_rows(200, 16, seed=12), unit_rows(8192, 16, seed=13)
    largest = 0
    below = torch.zeros(200)

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result._base is None:  # views cost nothing
                largest = max(largest, result.numel())
            return result

    for precision in ("float32", "bfloat16"):
        with Sizes():
            top_k(queries, corpus, 10, precision=precision)
            top_k(
                queries[:1], corpus, 4000, precision=precision
            )  # 2 x 4000 vectors are far more than a block
    with Sizes():
        top_k(queries, corpus, 10, below=below)
    assert 0 < largest <= 1024 * 16

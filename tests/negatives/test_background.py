"""The background cosine against a loop over all pairs, how it follows a model, and what it does for the rule."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conan_embed.negatives.background import Backgrounds, StepMeans, above_background, background_cosine
from conan_embed.negatives.prepare import first_backgrounds
from conan_embed.negatives.rankings import Ranking, known_scores
from conan_embed.negatives.rules import MeanRule, mean_scores
from conan_embed.negatives.table import NegativeTable
from conan_embed.objectives.relations import NEGATIVE, POSITIVE, Relations
from conan_embed.planning.plan import RetrievalPlan
from conan_embed.texts.ragged import Ragged
from conan_embed.texts.tasks import RetrievalDataset
from conan_embed.training.step import observe_negatives


def test_mean_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    query, candidate = (
        torch.randn(5, 8, generator=generator) + 1,
        torch.randn(7, 8, generator=generator) * 3 + 1,
    )
    slow = [
        torch.nn.functional.cosine_similarity(q, c, dim=0).item()
        for q in query.double()
        for c in candidate.double()
    ]
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (query, candidate)]
    assert background_cosine(*unit).item() == pytest.approx(np.mean(slow), abs=1e-6)


def test_unrelated_is_zero_and_identical_is_one():
    assert above_background(np.array([0.75, 1.0, np.nan]), 0.75)[:2].tolist() == [0, 1]


def test_the_rule_no_longer_depends_on_where_a_model_keeps_its_cosines():
    """Scores squeezed into [b, 1], as E5 does, are flagged as the spread-out ones are; as they stand they never are."""
    generator = np.random.default_rng(0)
    spread = generator.uniform(0, 1, (2, 200))
    squeezed = 0.75 + 0.25 * spread
    flagged = {}
    for name, scores in {
        "spread": spread,
        "squeezed": squeezed,
        "relative": above_background(squeezed, 0.75),
    }.items():
        initial, current = (np.repeat(each[:, None], 2, axis=1).astype(np.float32) for each in scores)
        learned = MeanRule(1.15, 0.8).learned(initial, current, np.full_like(initial, np.nan))
        flagged[name] = np.flatnonzero(learned.any(axis=1)).tolist()
    assert len(flagged["spread"]) > 50
    assert flagged["relative"] == flagged["spread"]
    assert len(flagged["squeezed"]) < len(flagged["spread"]) / 2


def test_a_running_background_is_that_of_a_loop():
    """Two data sets; a step's queries meet the positives of steps before it, never their own."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=(2, 2, 5))
    backgrounds = Backgrounds([30, 50], *first)
    value = [sum(q * p for q, p in zip(first[0, s], first[1, s], strict=True)) for s in range(2)]
    positive = [list(first[1, s]) for s in range(2)]
    for sets, counts in (([0], [4]), ([0, 1], [3, 1]), ([1], [200]), ([0, 1], [2, 64])):
        query, answers = draw.normal(size=(2, len(sets), 5))
        backgrounds.update(StepMeans(np.array(sets), np.array(counts), query, answers))
        for each, s in enumerate(sets):
            rate = min(1.0, counts[each] / 64)
            now = sum(q * p for q, p in zip(query[each], positive[s], strict=True))
            value[s] = (1 - rate) * value[s] + rate * now
            positive[s] = [
                (1 - rate) * old + rate * new for old, new in zip(positive[s], answers[each], strict=True)
            ]
        np.testing.assert_allclose(backgrounds.value_S, value, rtol=1e-12)
    np.testing.assert_allclose(backgrounds.of(np.array([0, 29, 30, 79])), np.repeat(value, 2))
    again = Backgrounds([30, 50], *first)
    again.load_state(backgrounds.state())
    for one in (backgrounds, again):
        one.update(StepMeans(np.array([0]), np.array([3]), first[0, :1], first[1, :1]))
    np.testing.assert_array_equal(backgrounds.value_S, again.value_S)


SIZE, DIMENSIONS, HARD = 600, 64, 13


def unit(*shape, generator):
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def close_model(generator, corpus):
    """As E5: unrelated texts at 0.75, less across data sets; hard negatives at 0.85, positives at 0.9.

    Text ids of each data set: queries, positives, its hard negatives, and an easier corpus.
    """
    common, own, parts = unit(DIMENSIONS, generator=generator), unit(2, DIMENSIONS, generator=generator), []
    for number in range(2):
        topic = unit(SIZE, DIMENSIONS, generator=generator)

        def near(noise, count, at=1.6 * common + 0.6 * own[number], topic=topic):
            texts = topic[:, None] + noise * unit(SIZE, count, DIMENSIONS, generator=generator)
            return torch.nn.functional.normalize(at + texts, dim=-1).flatten(0, 1)

        easy = torch.nn.functional.normalize(common + unit(corpus, DIMENSIONS, generator=generator), dim=-1)
        parts += [near(0.6, 1), near(0.6, 1), near(1.0, HARD), easy]
    return torch.cat(parts)


def world_of(vectors, corpus):
    """Two data sets whose hard negatives are given by hand, with the scores that ranked them."""
    sets, rankings, start = [], [], 0
    for name in "ab":
        query, positive = (start + shift + np.arange(SIZE) for shift in (0, SIZE))
        hard = start + 2 * SIZE + np.arange(SIZE * HARD).reshape(SIZE, HARD)
        passages = np.concatenate([positive, hard.ravel(), hard[-1, -1] + 1 + np.arange(corpus)])
        one_each = Ragged.of_lengths(positive, np.ones(SIZE, np.int64))
        nothing = Ragged.empty(SIZE)
        sets.append(
            RetrievalDataset(name, query, np.arange(SIZE), one_each, nothing, passages, "mined", None, None)
        )
        scores = (vectors[query][:, None] * vectors[hard]).sum(dim=2).numpy()
        rankings.append(Ranking(hard.astype(np.int32), scores, np.zeros(SIZE), 0))
        start += (2 + HARD) * SIZE + corpus
    return sets, rankings


def plan_of(rows, sets, table):
    """All candidates of a step are the texts of its queries; the U texts are all texts there are."""
    places = [(sets[row // SIZE], row % SIZE) for row in rows.tolist()]
    query = np.array([data.query_Q[row] for data, row in places])
    positive = np.array([data.positives[row][0] for data, row in places])
    negative = table.in_use(rows)
    dense = torch.full((len(rows), len(rows) * (1 + HARD)), NEGATIVE)
    dense[range(len(rows)), range(len(rows))] = POSITIVE
    row_X = torch.arange(len(rows)).repeat_interleave(HARD)
    columns = len(rows) + torch.arange(len(rows) * HARD)
    return RetrievalPlan(
        rows,
        torch.from_numpy(query),
        torch.from_numpy(np.concatenate([positive, negative.ravel()])),
        Relations.from_dense(dense),
        (row_X, columns),
        np.tile(np.arange(HARD), len(rows)),
    )


@pytest.mark.parametrize("corpus", [0, 20_000])
@pytest.mark.parametrize("queries", [1, 4, 32])
def test_a_model_that_does_not_change_has_learned_no_negative(queries, corpus):
    """However few queries a step has of each data set, and whatever else the corpus holds.

    The mean over all pairs of a step, as it was counted before, flags a third of the queries in steps of four.
    """
    vectors = close_model(torch.Generator().manual_seed(0), corpus)
    sets, rankings = world_of(vectors, corpus)
    backgrounds = first_backgrounds(sets, lambda ids, _: vectors[torch.from_numpy(ids)])
    initial = [known_scores(x, float(b)) for x, b in zip(rankings, backgrounds.value_S, strict=True)]
    table = NegativeTable(np.concatenate([x.ids_QK for x in rankings]), HARD, np.concatenate(initial))
    table.backgrounds = backgrounds
    order = np.random.default_rng(0).permutation(2 * SIZE)
    for rows in np.split(order, range(queries, len(order), queries)):
        plan = plan_of(rows, sets, table)
        row_X, column_X = plan.hard_negative_pairs
        cosine_X = (vectors[plan.query_Q[row_X]] * vectors[plan.candidate_C[column_X]]).sum(dim=1).numpy()
        result = SimpleNamespace(
            negative_X=cosine_X, share_X=np.full(len(cosine_X), 0.5), embedding_UD=vectors
        )
        observe_negatives(table, SimpleNamespace(retrieval=plan), result)
    assert len(table.take_seen()) == len(order)
    initial_Q, current_Q = mean_scores(table.initial_QN, table.current_QN)
    assert 0.2 < current_Q.mean() < 0.6
    np.testing.assert_allclose(current_Q, initial_Q, atol=0.06)
    learned_QN = MeanRule(1.15, 0.8).learned(table.initial_QN, table.current_QN, table.share_QN)
    assert learned_QN.any(axis=1).mean() < 0.005

    # By hand: a background is the mean over pairs of a query and another query's positive.
    for number, data in enumerate(sets):
        cosine = vectors[data.query_Q] @ vectors[data.positives.values].T
        others = cosine[~torch.eye(SIZE, dtype=torch.bool)].mean().item()
        assert table.backgrounds.value_S[number] == pytest.approx(others, abs=0.012)

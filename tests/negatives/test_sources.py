"""By what negatives are replaced: each source against mining done by hand at that moment."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conan_embed.errors import UserError
from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.mining import mine
from conan_embed.recipes.sections import Replacement
from tests.support.negatives_world import CHOSEN, World


def test_remine_is_mining_anew_with_the_model_as_it_is_now(tmp_path):
    world = World(tmp_path, source="remine", interval=1)
    world.train(5)
    world.make_easy([1, 4, 7])
    before, _ = world.rows()
    line = world.after(1)
    assert (line["flagged"], line["replaced"]) == (3, 3)
    after, windows = world.rows()
    anew = mine(world.data, world.store, world.embed, CHOSEN).usable(CHOSEN.offset).ids_QK
    for row in range(12):
        expected = anew[row] if row in (1, 4) else before[row]
        assert after[row].tolist() == expected.tolist()
    assert (anew[[1, 4]] != before[[1, 4]]).any()
    # Row 7 is of the data set that is not mined: it goes on along its own list.
    assert windows == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]


def test_the_bank_ranks_with_the_rows_that_training_wrote(tmp_path):
    world = World(tmp_path, source="bank", interval=4, refresh=3, bank_width=6)
    old = world.vectors
    world.train(5)
    seen = world.data.passages[[3, 9, 11]]
    for step in range(1, 4):
        assert world.after(step, seen) is None
    world.make_easy([0, 5])
    line = world.after(4, seen)
    assert line["replaced"] == 2
    refreshed = world.data.passages[[i for i in range(len(world.data.passages)) if i not in (3, 9, 11)][:12]]
    fresh = np.isin(np.arange(len(old)), [*seen, *refreshed])
    mixed = torch.where(torch.from_numpy(fresh)[:, None], world.vectors, old)
    bank = torch.nn.functional.normalize(mixed[:, :6], dim=1).bfloat16().float()
    queries = torch.from_numpy(world.data.query_Q)
    bank[queries] = torch.nn.functional.normalize(world.vectors[queries][:, :6], dim=1)
    mined = mine(world.data, world.store, lambda ids, _: bank[torch.from_numpy(ids)], CHOSEN)
    expected = mined.usable(CHOSEN.offset).ids_QK
    after, _ = world.rows()
    for row in (0, 5):
        assert after[row].tolist() == expected[row].tolist()
    assert line["bank_age_max"] == 4
    ages = [0 if text in seen else None for text in world.data.passages]
    assert line["bank_age"] == pytest.approx(
        (sum(age == 0 for age in ages) * 0 + sum((3, 2, 1, 0)) * 3 + 4 * (len(ages) - 3 - 12)) / len(ages)
    )


def test_a_bank_needs_a_data_set_that_is_mined(tmp_path):
    world = World(tmp_path, source="static")
    random = world.dynamic.sets[1]
    with pytest.raises(UserError, match=r"hard_negatives\.source: bank"):
        DynamicNegatives(
            Replacement(source="bank"),
            CHOSEN,
            world.table,
            [random],
            world.store,
            world.embed,
            width=8,
            fill=world.embed,
        )


def test_a_prefix_in_the_bank_has_no_score_of_full_width(tmp_path):
    world = World(tmp_path, source="bank", interval=1, bank_width=6)
    world.make_easy([1])
    assert world.after(1)["replaced"] == 1
    assert np.isnan(world.table.initial_QN[1]).all()


def test_negatives_of_labels_are_ranked_anew_although_they_were_drawn(tmp_path):
    """Texts of other classes are no answers; of a random draw from a collection nobody knows that."""
    world = World(tmp_path, source="remine", interval=1)
    labelled = replace(world.dynamic.sets[1], has_labels=True)
    dynamic = DynamicNegatives(
        Replacement(source="remine", interval=1),
        CHOSEN,
        world.table,
        [world.data, labelled],
        world.store,
        world.embed,
        width=8,
        fill=world.embed,
    )
    world.train(5)
    world.make_easy([7])
    record = dynamic.after_step(1, np.empty(0, np.int64), torch.empty(0, 8))
    anew = mine(world.data, world.store, world.embed, CHOSEN).usable(CHOSEN.offset).ids_QK
    assert record.replaced == 1
    assert world.table.ranking_QK[7].tolist() == anew[1].tolist()


def test_bank_and_remine_look_beyond_the_mined_depth(tmp_path):
    """Where the bound takes out all that was mined, the next passages come, as far as there are any."""
    world = World(tmp_path, source="remine", interval=1)
    world.dynamic.source.mining = CHOSEN.model_copy(update={"max_positive_ratio": 0.2})
    world.make_easy([0, 1, 2, 3, 4, 5])
    world.after(1)
    for row in range(6):
        scores = (world.vectors[world.data.query_Q[row]] @ world.vectors[world.data.passages].T).numpy()
        positive = world.data.positives[world.data.list_Q[row]]
        best = float((world.vectors[world.data.query_Q[row]] @ world.vectors[positive].T).max())
        allowed = (scores < 0.2 * best) & ~np.isin(world.data.passages, positive)
        below = world.data.passages[np.argsort(-np.where(allowed, scores, -9), kind="stable")][
            : allowed.sum()
        ]
        if allowed.sum() >= 2 + 3:
            assert world.table.in_use(np.array([row]))[0].tolist() == below[2:5].tolist()

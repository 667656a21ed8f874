"""When negatives are replaced and by what: each source against mining done by hand at that moment."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conan_embed.negatives.dynamic import DynamicNegatives
from conan_embed.negatives.mining import mine
from conan_embed.negatives.rankings import NONE
from conan_embed.recipes.sections import Mining, Replacement
from tests.support.negatives_world import CHOSEN, World


def test_static_negatives_are_never_checked(tmp_path):
    world = World(tmp_path, source="static", interval=2)
    world.make_easy([0, 1, 7])
    assert [world.after(step) for step in range(1, 7)] == [None] * 6
    assert world.table.replacements_Q.sum() == 0


def test_the_next_window_at_every_interval(tmp_path):
    world = World(tmp_path, source="ranking", interval=3)
    world.make_easy([1, 4, 7])
    assert world.after(1) is None
    assert world.after(2) is None
    line = world.after(3)
    assert (line["step"], line["observed"], line["flagged"], line["replaced"]) == (3, 3, 3, 3)
    assert (line["mean_initial"], line["mean_current"]) == pytest.approx((0.7, 0.1))
    assert world.rows()[1] == [0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
    assert world.after(6)["mean_initial"] is None  # nothing observed since


def test_a_ranking_without_a_whole_window_replaces_nothing(tmp_path):
    world = World(tmp_path, source="remine", interval=1)
    world.dynamic.source.mining = Mining(depth=2, offset=0, precision="float32")  # two ranks, but n is 3
    world.make_easy([2])
    before, _ = world.rows()
    line = world.after(1)
    assert (line["flagged"], line["replaced"]) == (1, 0)
    np.testing.assert_array_equal(world.rows()[0], before)
    assert (world.table.in_use(np.array([2])) != NONE).all()


def test_state_of_table_and_bank_together(tmp_path):
    world = World(tmp_path, source="bank", interval=1)
    other = World(tmp_path, source="bank", interval=1)
    world.train(3)
    world.make_easy([0, 3])
    world.after(1, world.data.passages[:5])
    other.dynamic.load_state(world.dynamic.state())
    for name, values in world.dynamic.state().items():
        np.testing.assert_array_equal(values, other.dynamic.state()[name])


# ------------------------------------------------------------------------------------- negatives by themselves


def see(world, rows, scores, shares=None):
    shape = (len(rows), 3)
    scores = np.broadcast_to(np.array(scores, float), shape)
    world.table.observe(np.array(rows), scores, None if shares is None else np.broadcast_to(shares, shape))


@pytest.mark.parametrize("source", ["ranking", "remine", "bank"])
def test_v2_replaces_the_learned_negative_alone(tmp_path, source):
    """The others stay, none stands twice, and what comes is the best of what is not in use."""
    world = World(tmp_path, source=source, rule="each", interval=1)
    before = world.table.in_use(np.arange(12))
    world.train(5)
    rows = [1, 4, 7]
    see(world, rows, 0.7)
    see(world, rows, [0.69, 0.1, 0.71])
    line = world.after(1, world.data.passages)
    assert (line["flagged"], line["flagged_negatives"], line["replaced_negatives"]) == (3, 3, 3)
    after = world.table.in_use(np.arange(12))
    untouched = np.setdiff1d(np.arange(12), rows)
    np.testing.assert_array_equal(after[untouched], before[untouched])
    np.testing.assert_array_equal(after[rows][:, [0, 2]], before[rows][:, [0, 2]])
    anew = mine(world.data, world.store, world.embed, CHOSEN).usable(CHOSEN.offset).ids_QK
    for row in rows:
        listed = world.mined[row] if row < 6 else world.data.passages[:8]
        candidates = anew[row] if row < 6 and source != "ranking" else listed
        assert after[row, 1] == next(text for text in candidates if text not in before[row])
    # Judged once: what was not seen again is not replaced again.
    assert world.after(2, world.data.passages)["flagged"] == 0


@pytest.mark.parametrize("relative", [False, True])
def test_what_a_source_ranked_is_the_first_score(tmp_path, relative):
    """S_0 is the score under the model of the check; the next ranks of an old ranking have none."""
    for source in ("remine", "bank", "ranking"):
        world = World(tmp_path / source, source=source, interval=1, subtract_background=relative)
        world.train(5)
        world.make_easy([1, 4, 7])
        world.after(1, world.data.passages)
        known = ~np.isnan(world.table.initial_QN)
        if source == "ranking":
            assert not known[[1, 4, 7]].any()
            continue
        assert known[[1, 4]].all() and not known[7].any()
        background = 0.0
        if relative:
            background = float(world.table.backgrounds.value_S[0])
        for row in (1, 4):
            texts = world.table.in_use(np.array([row]))[0]
            score = (world.vectors[world.data.query_Q[row]] @ world.vectors[texts].T).numpy()
            expected = (score - background) / (1 - background)
            tolerance = 1e-5 if source == "remine" else 1e-2  # the bank holds bfloat16
            np.testing.assert_allclose(world.table.initial_QN[row], expected, atol=tolerance)


def test_a_small_share_says_that_a_negative_is_learned(tmp_path):
    """Whatever its cosine does; also of one seen for the first time."""
    world = World(tmp_path, source="ranking", rule="share", min_share=0.05, interval=1)
    before = world.table.in_use(np.arange(12))
    see(world, [2, 3], 0.6, [[0.04, 0.5, 0.01], [0.06, 0.5, 0.3]])
    line = world.after(1)
    assert (line["flagged"], line["replaced_negatives"]) == (1, 2)
    after = world.table.in_use(np.arange(12))
    assert (after != before).sum(axis=1).tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert after[2, 1] == before[2, 1]


def test_one_line_says_what_was_replaced(tmp_path):
    world = World(tmp_path, source="ranking", interval=1)
    world.make_easy([1, 4, 7])
    record = world.dynamic.after_step(1, np.empty(0, np.int64), torch.empty(0, 8))
    assert str(record) == (
        "step 1: replaced 9 hard negatives of 3 of 3 queries seen; "
        "mean score 0.70 when put in place, 0.10 now"
    )


def test_queries_seen_count_whether_their_first_score_is_known_or_not(tmp_path):
    world = World(tmp_path, source="ranking", rule="share", interval=1)
    see(world, [2, 3, 5], 0.6, 0.001)  # for the first time: S_0 is known, S is not
    record = world.dynamic.after_step(1, np.empty(0, np.int64), torch.empty(0, 8))
    assert (record.seen, record.observed) == (3, 0)
    assert str(record) == "step 1: replaced 9 hard negatives of 3 of 3 queries seen"


def shorten(world, lengths):
    """Leave queries with few ranks or none, as a bound does."""
    ids = world.table.ranking_QK.copy()
    for row, length in lengths.items():
        ids[row, length:] = NONE
    world.table.__init__(ids, 3)


@pytest.mark.parametrize("source", ["ranking", "remine", "bank"])
@pytest.mark.parametrize("rule", ["share", "each", "mean"])
def test_empty_places_are_filled_from_rankings_made_anew(tmp_path, source, rule):
    """Of queries that training saw, with the best that is not in use; a list has nothing to fill them with."""
    world = World(tmp_path, source=source, rule=rule, interval=1)
    shorten(world, {0: 1, 1: 0, 2: 1, 7: 1})
    before = world.table.in_use(np.arange(12))
    world.train(5)
    rows = [0, 1, 7]
    # Negatives that are still hard: nothing is flagged.
    scores = np.where(before[rows] == NONE, np.nan, 0.9)
    world.table.observe(np.array(rows), scores, np.where(np.isnan(scores), np.nan, 0.9))
    record = world.dynamic.after_step(1, world.data.passages, world.vectors[world.data.passages])
    after = world.table.in_use(np.arange(12))
    filled = [] if source == "ranking" else [1] if rule == "mean" else [0, 1]
    anew = mine(world.data, world.store, world.embed, CHOSEN).usable(CHOSEN.offset).ids_QK
    for row in range(12):
        if row not in filled:
            np.testing.assert_array_equal(after[row], before[row])
            continue
        held = [text for text in before[row] if text != NONE]
        fresh = [text for text in anew[row].tolist() if text not in held]
        assert after[row].tolist() == [*held, *fresh][:3]
    assert record.filled_negatives == {0: 0, 1: 3, 2: 5}[len(filled)]
    assert (record.seen, record.flagged, record.replaced) == (3, 0, len(filled))
    assert record.replaced_negatives == record.flagged_negatives == 0
    assert world.dynamic.replaced.tolist() == filled
    # What was put in place is seen and judged as all others are.
    assert world.after(2, world.data.passages)["filled_negatives"] == 0


@pytest.mark.parametrize("source", ["ranking", "remine"])
def test_only_lists_are_exhausted(tmp_path, source):
    """Not what is ranked anew, nor data sets without negatives."""
    world = World(tmp_path, source=source, interval=1)
    shorten(world, {0: 3, 1: 4, 7: 3, 8: 0})
    assert world.after(1)["exhausted"] == (4 if source == "ranking" else 2)
    none = replace(world.dynamic.sets[1], negative_source="none")
    dynamic = DynamicNegatives(
        Replacement(source=source, interval=1),
        CHOSEN,
        world.table,
        [world.data, none],
        world.store,
        world.embed,
        width=8,
        fill=None,
    )
    record = dynamic.after_step(1, np.empty(0, np.int64), torch.empty(0, 8))
    assert record.exhausted == (2 if source == "ranking" else 0)


def test_a_run_that_ends_looks_for_nothing_new(tmp_path):
    """And makes up for it once it is given more steps."""
    world = World(tmp_path, source="ranking", interval=2)
    world.make_easy([1, 4])
    nothing = np.empty(0, np.int64), torch.empty(0, 8)
    assert world.dynamic.after_step(2, *nothing, is_last=True) is None
    assert world.table.replacements_Q.sum() == 0
    assert world.dynamic.make_up_for_check(2).replaced == 2
    assert world.dynamic.make_up_for_check(2) is None and world.dynamic.make_up_for_check(3) is None

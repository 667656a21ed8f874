"""Examples that differ in their words are told apart; those that do not are refused."""

import random

import numpy as np
import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.quality import QualityFilter, QualityModel, train_quality
from conan_embed.filtering.recipe import Normalise, Quality

GOOD = [
    "地球",
    "围绕",
    "太阳",
    "旋转",
    "一周",
    "需要",
    "一年",
    "the",
    "theory",
    "explains",
    "planets",
    "orbit",
]
BAD = ["加微信", "优惠", "点击", "领取", "红包", "免费", "抢购", "click", "cheap", "winner", "prize", "offer"]


def texts(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(8, 30))) for _ in range(count)]


def write(folder, good, bad) -> Quality:
    pl.DataFrame({"text": good}).write_parquet(folder / "good.parquet")
    pl.DataFrame({"positive": [bad[:9], bad[9:]], "query": ["x", "y"]}).write_parquet(folder / "bad.parquet")
    return Quality(good=(str(folder / "good.parquet"),), bad=(str(folder / "bad.parquet"),))


def test_new_texts_are_judged_by_their_words(tmp_path, make_pairs):
    setting = write(tmp_path, texts(GOOD, 200, 0), texts(BAD, 200, 1))
    model = train_quality(setting, Normalise())
    assert model.auc > 0.99
    pairs = make_pairs([("q", text) for text in (*texts(GOOD, 20, 2), *texts(BAD, 20, 3))], measured=False)
    outcome = QualityFilter(model, setting)(pairs)
    assert outcome.kept["id"].to_list() == list(range(20))
    assert set(outcome.dropped["dropped_by"]) == {"low_quality"}
    assert outcome.dropped["value"].max() < 0.5
    assert outcome.kept.columns == pairs.columns


def test_a_text_has_one_probability_in_any_company_and_after_saving(tmp_path):
    model = train_quality(write(tmp_path, texts(GOOD, 100, 0), texts(BAD, 100, 1)), Normalise())
    model.save(tmp_path / "model.npz")
    loaded = QualityModel.load(tmp_path / "model.npz")
    several = pl.Series([*texts(GOOD, 3, 5), "", "短", *texts(BAD, 3, 6)])
    alone = [model.probability(pl.Series([text]))[0] for text in several]
    np.testing.assert_allclose(loaded.probability(several), alone, rtol=1e-6)
    assert model.probability(pl.Series([], dtype=pl.String)).shape == (0,)


def test_examples_that_are_alike_are_refused(tmp_path):
    setting = write(tmp_path, texts(GOOD, 200, 0), texts(GOOD, 200, 1))
    with pytest.raises(UserError, match="cannot tell the good examples from the bad ones"):
        train_quality(setting, Normalise())


def test_too_few_examples_are_named(tmp_path):
    with pytest.raises(UserError, match=r"found 10 different texts in .*, expected at least 50"):
        train_quality(write(tmp_path, texts(GOOD, 10, 0), texts(BAD, 90, 1)), Normalise())


def test_one_kind_alone_is_no_setting():
    with pytest.raises(ValueError, match="expected examples of both kinds"):
        Quality(good=("a.parquet",))

import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from conan_embed.recipes.schema import Recipe
from conan_embed.reporting import sentences
from conan_embed.reporting.runs import Evaluation, RunFiles, Score

DATA: dict[str, Any] = {
    "retrieval": [{"name": "drcd", "path": "a"}],
    "sts": [{"name": "stsb", "path": "b"}],
}


def _evaluation(step: int, **values: float) -> Evaluation:
    kinds = {"Medical": "retrieval", "SciFact": "retrieval", "STSB": "sts"}
    metrics = {"retrieval": "ndcg_at_10", "sts": "cosine_spearman"}
    scores = [Score(f"{kinds[n]}/{n}", n, kinds[n], metrics[kinds[n]], {8: v}) for n, v in values.items()]
    return Evaluation(step, {score.key: score for score in scores}, sum(values.values()) / len(values))


def _run(*evaluations: Evaluation, steps: int = 400, name: str = "run", **fields: Any) -> RunFiles:
    metrics = pl.DataFrame([{"step": s, "seconds": 1.8} for s in range(1, steps + 1)])
    return RunFiles(path=Path(), name=name, metrics=metrics, evaluations=evaluations, **fields)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"Medical": 33.1}, {"Medical": 41.2}, "Medical nDCG@10 rose from 33.1 to 41.2"),
        ({"Medical": 33.1}, {"Medical": 33.0}, "Medical nDCG@10 fell from 33.1 to 33.0"),
        ({"Medical": 33.12}, {"Medical": 33.14}, "Medical nDCG@10 stayed at 33.1"),
        (
            {"Medical": 30, "SciFact": 50, "STSB": 70},
            {"Medical": 40, "SciFact": 52, "STSB": 69},
            "Retrieval nDCG@10 (2 sets) rose from 40.0 to 46.0 and STSB Spearman fell from 70.0 to 69.0",
        ),
        (
            {"Medical": 30, "STSB": 70},
            {"Medical": 40, "STSB": 71},
            "Medical nDCG@10 rose from 30.0 to 40.0 and STSB Spearman from 70.0 to 71.0",
        ),
    ],
)
def test_the_headline_says_the_gain_in_one_sentence(before, after, expected):
    run = _run(_evaluation(0, **before), _evaluation(400, **after))
    assert sentences.headline(run) == f"{expected} in 400 steps / 12 minutes."


def test_the_headline_of_a_run_that_was_not_evaluated_or_not_begun():
    assert (
        sentences.headline(_run())
        == "Trained for 400 steps / 12 minutes, without evaluation before and after."
    )
    assert sentences.headline(RunFiles(path=Path(), name="run")) == "No step has been taken yet."


def test_the_comparison_names_the_best_on_the_tasks_that_all_have():
    runs = [
        _run(_evaluation(400, Medical=40, STSB=60), name="static"),
        _run(_evaluation(400, Medical=45, STSB=61), name="dynamic"),
        _run(_evaluation(400, Medical=30, STSB=62, SciFact=99), name="in-batch"),
        _run(name="not evaluated"),
    ]
    expected = "dynamic ended highest: mean of 2 tasks 53.0, against 50.0 (static) and 46.0 (in-batch)."
    assert sentences.comparison(runs) == expected
    assert sentences.comparison(runs[2:]) == "2 runs side by side."
    level = [_run(_evaluation(400, Medical=40.04), name="a"), _run(_evaluation(400, Medical=40.0), name="b")]
    assert sentences.comparison(level) == "a and b ended level: Medical nDCG@10 40.0."


def _recipe(**sections: Any) -> str:
    recipe = Recipe.model_validate({"model": {"base": "org/model"}, "data": DATA} | sections)
    return sentences.recipe(_run(recipe=recipe, record={"datasets": [{"name": "drcd", "rows": 3524}]}))


def test_the_recipe_is_a_sentence():
    assert _recipe(
        model={"base": "/somewhere/e5-small", "pooling": "cls", "dense_width": 1792, "widths": [512, 256]},
        hard_negatives={"source": "ranking"},
    ) == (
        "Started from e5-small (cls pooling; dense layer to 1792; widths 512 and 256) and trained on "
        "retrieval (drcd 3,524) and STS (stsb). "
        "A step holds 16 queries, each against 7 hard negatives and all candidates from its data set, "
        "and 32 STS pairs. "
        "The loss is InfoNCE (τ 0.02) + 0.8 × CoSENT (τ 0.05). "
        "Hard negatives are checked every 100 steps; where the means of a query have 1.15 S < S₀ and |S| < 0.8, "
        "the next ones of their ranking replace them."
    )


@pytest.mark.parametrize(
    ("settings", "condition"),
    [
        ({"rule": "each"}, "one has 1.2 S < S₀ and |S| < 0.7 or S₀ < 0.4"),
        ({"rule": "each", "too_easy": None, "decay": 1.5}, "one has 1.5 S < S₀ and |S| < 0.7"),
        (
            {"rule": "share", "min_share": 0.05},
            "one's share of the softmax over it and the positive is below 0.05",
        ),
    ],
)
def test_the_condition_is_that_of_the_rule(settings: dict[str, Any], condition: str):
    text = _recipe(hard_negatives={"source": "bank", **settings})
    expected = f"; where {condition}, new ones are ranked from a bank of passage embeddings."
    assert text.endswith(expected)


def test_the_recipe_of_one_task_alone():
    only_sts = _recipe(data={"sts": DATA["sts"]}, step={"queries": 0})
    assert only_sts == (
        "Started from org/model and trained on STS (stsb). A step holds 32 STS pairs. The loss is CoSENT (τ 0.05)."
    )
    only_retrieval = _recipe(
        data={"retrieval": DATA["retrieval"]}, step={"sts_pairs": 0, "num_negatives": 0, "in_batch": "step"}
    )
    assert only_retrieval == (
        "Started from org/model and trained on retrieval (drcd 3,524). "
        "A step holds 16 queries, each against all candidates of the step. The loss is InfoNCE (τ 0.02)."
    )


def test_a_sequential_step_holds_one_task_or_the_other():
    text = _recipe(step={"mixing": "sequential", "in_batch": "none"})
    assert "A step holds 16 queries, each against 7 hard negatives, or 32 STS pairs." in text


@pytest.mark.parametrize("source", ["static", "ranking", "bank", "remine"])
def test_every_source_of_negatives_has_its_words(source):
    text = _recipe(hard_negatives={"source": source, "interval": 30})
    assert text.endswith(".")
    assert ("every 30 steps" in text) == (source != "static")


def test_the_negatives_are_summed_up_over_the_checks():
    checks = [
        {
            "step": 100,
            "observed": 50,
            "replaced": 20,
            "seconds": 2.0,
            "mean_rank": 3.5,
            "exhausted_share": 0.0,
        },
        {
            "step": 200,
            "observed": 80,
            "replaced": 20,
            "seconds": 5.2,
            "mean_rank": 8.4,
            "exhausted_share": 0.025,
        },
    ]
    assert sentences.negatives(_run(checks=pl.DataFrame(checks))) == (
        "2 checks replaced the negatives of 40 queries in total, the last one those of 25% of the 80 observed. "
        "The negatives now in use have a mean rank of 8, and 2.5% of the rankings are exhausted. "
        "Checks and bank took 7.2 seconds, 1% of the training time."
    )
    nothing = [{"step": 100, "observed": 50, "replaced": 0}]
    assert (
        sentences.negatives(_run(checks=pl.DataFrame(nothing)))
        == "1 check replaced the negatives of no query in total."
    )
    assert sentences.negatives(_run()) == ""


def test_the_speed_is_set_against_the_floor_where_that_was_measured():
    metrics = pl.DataFrame([{"step": s, "seconds": 2.0, "tokens_per_second": 7_700.0 + s} for s in (0, 1, 2)])
    run = RunFiles(path=Path(), name="run", metrics=metrics)
    assert sentences.speed(run) == (
        "The median step processed 7,700 real (non-padding) tokens per second, and took 2 seconds."
    )
    run = RunFiles(
        path=Path(), name="run", metrics=metrics, record={"matmul_peak_tokens_per_second": 35_000.0}
    )
    assert "22% of the 35,000 that its bf16 matrix products alone would allow" in sentences.speed(run)


@pytest.mark.parametrize(
    ("function", "value", "expected"),
    [
        (sentences.number, 41.25, "41.2"),
        (sentences.number, -0.01, "0.0"),
        (sentences.number, -3.06, "−3.1"),
        (sentences.number, math.nan, "–"),
        (sentences.number, None, "–"),
        (sentences.signed, 0.04, "0.0"),
        (sentences.signed, -0.04, "0.0"),
        (sentences.signed, 8.1, "+8.1"),
        (sentences.signed, -8.1, "−8.1"),
        (sentences.short, 812, "812"),
        (sentences.short, 7_768, "7,770"),
        (sentences.short, 3_100_000, "3.1 M"),
        (sentences.short, 2.5e9, "2.5 G"),
        (sentences.scientific, 2e-05, "2e-5"),
        (sentences.scientific, 1.5e10, "1.5e10"),
        (sentences.duration, 2.34, "2.3 seconds"),
        (sentences.duration, 41, "41 seconds"),
        (sentences.duration, 720, "12 minutes"),
        (sentences.duration, 12_000, "3 h 20 min"),
    ],
)
def test_numbers_are_written_as_people_write_them(function, value, expected):
    assert function(value) == expected

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.reporting import figures
from conan_embed.reporting.canvas import NARROW, WIDE
from conan_embed.reporting.runs import Evaluation, RunFiles, Score, read_runs

SVG = "{http://www.w3.org/2000/svg}"


def _run(metrics=(), checks=(), evaluations=()) -> RunFiles:
    return RunFiles(
        path=Path(),
        name="run",
        metrics=pl.DataFrame(list(metrics)),
        checks=pl.DataFrame(list(checks)),
        evaluations=tuple(evaluations),
    )


def _data(svg: str) -> list[str]:
    """The paths of the data in a drawing."""
    groups = [group for group in ElementTree.fromstring(svg).iter(f"{SVG}g") if group.get("class") == "data"]
    return [
        path.attrib["d"] for group in groups for path in group.iter(f"{SVG}path") if path.get("clip-path")
    ]


def _points(path: str) -> np.ndarray:
    return np.array(re.findall(r"[ML] ([\d.-]+) ([\d.-]+)", path), dtype=float)


def test_points_stand_where_the_data_are():
    values = [31.0, 35.0, 33.0, 40.0]
    scores = [
        Evaluation(10 * n, {"sts/A": Score("sts/A", "A", "sts", "m", {8: v})}, v)
        for n, v in enumerate(values)
    ]
    (path,) = _data(figures.evaluation([_run(evaluations=scores)], "sts/A"))
    x, y = _points(path).T
    assert np.corrcoef(x, [0, 10, 20, 30])[0, 1] == pytest.approx(1, abs=1e-4)
    assert np.corrcoef(y, values)[0, 1] == pytest.approx(-1, abs=1e-4)  # y goes down in SVG


def test_figure_2_marks_each_check_that_replaced_negatives_the_stronger_the_more():
    metrics = [{"step": s, "score/positive": 0.8, "score/negative": 0.5 - s / 1000} for s in range(1, 101)]
    checks = [{"step": s, "observed": 100, "replaced": r} for s, r in ((20, 10), (40, 0), (60, 90), (80, 50))]
    svg = figures.scores([_run(metrics, checks)], WIDE)
    strengths = [float(s) for s in re.findall(r"stroke-dasharray[^\"]*stroke-opacity: ([\d.]+)", svg)]
    assert len(strengths) == 3
    assert strengths[0] < strengths[2] < strengths[1]
    assert [path.count("M") for path in _data(svg)] == [
        4,
        4,
    ]  # each line in the pieces between three replacements


@pytest.mark.parametrize("several", [False, True])
def test_an_outlier_does_not_flatten_a_loss(several):
    losses = [1000.0] + [2 - s / 500 + 0.2 * np.sin(s / 9) for s in range(500)]
    run = _run([{"step": s, "loss": v} for s, v in enumerate(losses, 1)])
    x, y = _points(_data(figures.loss([run] * (1 + several), "loss"))[0]).T
    height = 180  # of the whole drawing
    assert np.ptp(y[x > 100]) > 0.4 * height


def test_bars_have_the_height_of_their_counts():
    checks = [{"step": s, "replaced": r} for s, r in ((50, 100), (100, 400), (150, 0))]
    heights = [np.ptp(_points(path)[:, 1]) for path in _data(figures.replaced([_run(checks=checks)]))]
    assert heights[0] / heights[1] == pytest.approx(0.25, abs=0.01)
    assert heights[2] == 0


def _all(runs) -> dict[str, str]:
    keys = sorted({key for run in runs for evaluation in run.evaluations for key in evaluation.scores})
    return {
        "loss": figures.loss(runs, "loss"),
        "sts": figures.loss(runs, "loss/sts"),
        "scores": figures.scores(runs, WIDE),
        "scores, narrow": figures.scores(runs, NARROW),
        "learning rate": figures.learning_rate(runs),
        "gradient": figures.gradient_norm(runs),
        "speed": figures.throughput(runs),
        "replaced": figures.replaced(runs),
        "rank": figures.check(runs, ["mean_rank"]),
        "means": figures.check(runs, ["mean_initial", "mean_current"]),
        **{key: figures.evaluation(runs, key) for key in keys},
    }


@pytest.mark.parametrize("several", [False, True])
def test_every_figure_has_data_and_only_colours_of_the_page(dynamic, static, several):
    runs = read_runs([dynamic, static] if several else [dynamic])
    ids: list[str] = []
    for name, svg in _all(runs).items():
        assert any(len(_points(path)) > 1 for path in _data(svg)), name
        used = set(re.findall(r"(?:stroke|fill): ([^;\"]+)", svg))
        assert used <= {"none"} | {value for value in used if value.startswith("var(--")}, name
        mine = re.findall(r'\bid="([^"]+)"', svg)
        assert set(re.findall(r"#([\w-]+)", svg)) == set(mine), name
        assert "font-family" not in svg
        ids += mine
    assert len(ids) == len(set(ids))  # no drawing refers into another


def test_without_data_there_is_no_figure():
    empty = [_run()]
    assert not any(_all(empty).values())
    assert figures.evaluation(empty, "sts/A") == ""


def test_the_sum_of_mixed_losses_takes_the_latest_of_each_task():
    """Figure 4 of the paper: steps of one task, and steps of both."""
    rows = [
        {"step": 1, "loss/retrieval": 4.0, "loss/sts": None},
        {"step": 2, "loss/retrieval": None, "loss/sts": 1.0},
        {"step": 3, "loss/retrieval": 2.0, "loss/sts": None},
        {"step": 4, "loss/retrieval": 1.0, "loss/sts": 3.0},
    ]
    metrics = pl.DataFrame(rows, infer_schema_length=None)
    of = figures._summed
    assert of(metrics, ["retrieval", "sts"]).rows() == [(1, None), (2, 5.0), (3, 3.0), (4, 4.0)]
    assert of(metrics, ["sts"]).rows() == [(2, 1.0), (4, 3.0)]
    assert len(_data(figures.mixed_loss([_run(rows), _run(rows)], ["retrieval", "sts"]))) == 2
    assert figures.mixed_loss([_run(rows[:1])], ["sts", "other"]) == ""

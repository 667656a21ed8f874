"""Whole runs under a teacher: resumption bit for bit, replaced negatives with their scores, columns of scores."""

import json

import pytest

from conan_embed.errors import UserError
from conan_embed.training.run import train
from tests.support.small_runs import assert_resumes_bit_for_bit, interrupt_at, killed, lines, write
from tests.tiny_models import make_tiny_model


@pytest.fixture
def teacher(tmp_path):
    """A wider model of another family, with prompts of its own."""
    make_tiny_model("roberta", prompts={"query": "Q: "}, seed=4).save(tmp_path / "teacher")
    return {"model": str(tmp_path / "teacher"), "kl": 1.0, "margin_mse": 0.3, "embedding": 0.5}


def test_a_killed_run_under_a_teacher_resumes_bit_for_bit(recipe, teacher, monkeypatch):
    settings = {"teacher": teacher | {"ignore_above_positive": -0.05}, "model": {"widths": [4]}}
    whole = assert_resumes_bit_for_bit(recipe, settings, monkeypatch)
    metrics = lines(whole, "metrics")
    assert all(line["loss/teacher"] > 0 for line in metrics)
    assert sum(line["guarded_per_query"] for line in metrics) > 0
    for line in metrics:
        parts = line["loss/retrieval"] + 0.8 * line["loss/sts"] + line["loss/teacher"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
    assert sum(line["replaced"] for line in lines(whole, "negatives")) > 0


def test_another_teacher_is_noticed(recipe, teacher, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(teacher=teacher))
    make_tiny_model("roberta", seed=5).save(tmp_path / "teacher")
    with pytest.raises(UserError, match="the data changed since: teacher"):
        train(recipe(teacher=teacher))


def test_scores_of_the_data_teach(recipe, base, tmp_path):
    rows = [json.loads(line) for line in (base / "given.jsonl").read_text(encoding="utf-8").splitlines()]
    graded = []
    for row in rows:
        graded.append({"query": row["query"], "passage": row["positive"], "relevance": 2})
        graded += [{"query": row["query"], "passage": text, "relevance": 0.5} for text in row["negative"]]
    write(tmp_path / "graded.jsonl", graded)
    given = {"name": "given", "path": str(base / "given.jsonl"), "negative_source": "given"}
    settings = {
        "step": {"num_negatives": 1, "sts_pairs": 0},
        "teacher": {"kind": "columns", "margin_mse": 1.0, "contrastive": 0.0},
        "hard_negatives": {"source": "static"},
    }
    with pytest.raises(UserError, match=r"no data set has scores; expected data.retrieval.scores"):
        train(recipe("without", data={"retrieval": [given], "sts": []}, **settings))
    write(tmp_path / "others.jsonl", [row | {"passage": row["passage"] + " or so"} for row in graded])
    given["scores"] = str(tmp_path / "others.jsonl")
    with pytest.raises(UserError, match=r"data.retrieval 'given': scores for a positive of 0 of"):
        train(recipe("others", data={"retrieval": [given], "sts": []}, **settings))
    given["scores"] = str(tmp_path / "graded.jsonl")
    metrics = lines(train(recipe(data={"retrieval": [given], "sts": []}, **settings)), "metrics")
    # Each query has its positive and one negative with scores: the margin is 1.5.
    assert all(line["loss"] == pytest.approx(line["loss/teacher"]) for line in metrics)
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert metrics[0]["loss"] == pytest.approx(1.5**2, rel=0.9)
    # The same scores beside the texts, as FlagEmbedding's files have them, are the same run.
    beside = [row | {"pos_scores": [2], "neg_scores": [0.5] * len(row["negative"])} for row in rows]
    write(tmp_path / "beside.jsonl", beside)
    given = {"name": "given", "path": str(tmp_path / "beside.jsonl"), "negative_source": "given"}
    again = lines(train(recipe("beside", data={"retrieval": [given], "sts": []}, **settings)), "metrics")
    assert [line["loss"] for line in again] == [line["loss"] for line in metrics]


def test_embeddings_teach_without_negatives(recipe, teacher, capsys):
    alone = {"model": teacher["model"], "embedding": 1.0, "contrastive": 0.0}
    settings = {
        "step": {"num_negatives": 0, "in_batch": "none", "sts_pairs": 0},
        "hard_negatives": {"source": "static"},
        "training": {"steps": 12},
        "optimizer": {"learning_rate": 1e-2},
    }
    with pytest.raises(UserError):  # labels alone have nothing to tell apart
        train(recipe("labels", **settings))
    metrics = lines(train(recipe(teacher=alone, **settings)), "metrics")
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert "nothing to learn" not in capsys.readouterr().err

"""`conan-embed false-negatives` on a finished run."""

import shutil

import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import read_json_lines
from conan_embed.training.false_negatives import find_false_negatives
from conan_embed.training.run import train
from tests.support.small_runs import lines


def test_the_hardest_negatives_are_scored_by_the_model_and_found_again(recipe, base):
    """By hand: every pair is scored by the saved model, and what is suspect follows from the scores."""
    run = train(
        recipe(
            data={
                "retrieval": [
                    {"name": "pairs", "path": str(base / "pairs.jsonl")},
                    {"name": "given", "path": str(base / "given.jsonl"), "negative_source": "given"},
                ],
                "classification": [{"name": "classes", "path": str(base / "classes.jsonl")}],
            },
            step={"too_few_negatives": "allow"},
        )
    )
    written = lines(run, "hard_negatives")
    assert {line["data_set"] for line in written} == {"pairs", "given", "classes"}
    model = EmbeddingModel.load(run / "model")

    def encode(texts, role):
        return model.encode(texts, prompt=model.prompts[role], precision="float32")

    positives = {row["query"]: row["positive"] for row in read_json_lines(base / "pairs.jsonl")}
    for line in written:
        if line["data_set"] == "pairs":
            assert line["negative"] not in positives[line["query"]]
            assert line["rank"] >= 1  # the offset
            query = encode([line["query"]], "query")[0]
            answers = encode(positives[line["query"]], "passage") @ query
            assert line["positive"] == positives[line["query"]][int(answers.argmax())]
            assert line["positive_score"] == pytest.approx(answers.max(), abs=1e-3)
            assert line["negative_score"] == pytest.approx(
                encode([line["negative"]], "passage")[0] @ query, abs=1e-3
            )
        else:
            assert line["rank"] is line["mined_negative_score"] is line["mined_positive_score"] is None
        near = line["negative_score"] >= line["positive_score"] - 0.05
        mined_above = (line["mined_negative_score"] or -2) >= (line["mined_positive_score"] or 2)
        assert line["suspect"] == (near or mined_above)
        assert line["label"] == ""
    gaps = [line["negative_score"] - line["positive_score"] for line in written]
    assert gaps == sorted(gaps, reverse=True)

    # The files of the run alone tell the same, and what is left out is what lies below a wider margin.
    result = find_false_negatives(run, limit=200, margin=2.0)
    again = lines(run, "hard_negatives")
    assert [{**line, "suspect": None} for line in again] == [{**line, "suspect": None} for line in written]
    assert result.likely == result.checked == len(again) == len(read_json_lines(result.file))
    output = find_false_negatives(run, run / "few.jsonl", limit=6, margin=-2.0).file
    assert len(lines(run, "hard_negatives")) == 6
    assert read_json_lines(output) == [line for line in lines(run, "hard_negatives") if line["suspect"]]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("checkpoints", "not a finished run"),
        ("checkpoints/*/negatives.safetensors", "holds no hard negatives"),
    ],
)
def test_false_negatives_need_a_finished_run_with_hard_negatives(recipe, gone, words):
    run = train(recipe(training={"steps": 2, "checkpoint_every": 0}))
    (path,) = run.glob(gone)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=words):
        find_false_negatives(run)

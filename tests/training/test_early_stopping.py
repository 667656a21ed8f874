"""Early stopping: a run ends where evaluations no longer get better, resumed or not."""

import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.files import read_json
from conan_embed.training.evaluator import Evaluator
from conan_embed.training.false_negatives import find_false_negatives
from conan_embed.training.run import train
from tests.support.small_runs import interrupt_at, killed, lines


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations come out as a list says, by step; the steps that were evaluated are noted."""
    scores, asked = {}, []

    def evaluate(self, model, step, log, *, examples):
        asked.append(step)
        return scores[step]

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    return scores, asked


def patient(base, patience):
    return {"folder": str(base / "eval"), "every": 2, "patience": patience}


@pytest.mark.parametrize(
    ("scores", "patience", "last"),
    [
        ([0.1, 0.2, 0.1, 0.15, 0.3], 2, 6),  # steps 0, 2, 4, 6, 8: two worse ones after step 2
        ([0.1, 0.2, 0.1, 0.25, 0.3], 2, 8),
        ([0.5, 0.2, 0.1, 0.25, 0.3], 1, 2),
        ([0.1, 0.2, 0.1, 0.15, 0.1], None, 8),
    ],
)
def test_a_run_ends_after_so_many_evaluations_without_a_better_one(
    recipe,
    base,
    scripted,
    scores,
    patience,
    last,
):
    by_step, asked = scripted
    by_step |= dict(zip(range(0, 9, 2), scores, strict=True))
    run = train(recipe(evaluation=patient(base, patience)))
    assert lines(run, "metrics")[-1]["step"] == last
    assert asked == list(range(0, last + 1, 2))  # the last step is not evaluated twice
    best = max(range(0, last + 1, 2), key=by_step.__getitem__)
    assert read_json(run / "model" / "conan_embed.json")["step"] == best
    EmbeddingModel.load(run / "model")


def test_a_killed_run_stops_where_the_whole_one_does(recipe, base, scripted, monkeypatch):
    scripted[0].update({0: 0.1, 2: 0.2, 4: 0.1, 6: 0.15, 8: 0.9})
    settings = {"evaluation": patient(base, 2)}
    whole = train(recipe("whole", **settings))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("cut", **settings))
    cut = train(recipe("cut", **settings))
    assert lines(whole, "metrics") == lines(cut, "metrics") and lines(cut, "metrics")[-1]["step"] == 6
    train(recipe("cut", **settings))  # once more: nothing is left to do
    assert lines(cut, "metrics")[-1]["step"] == 6


def test_patience_needs_evaluations(recipe, base):
    with pytest.raises(ValueError, match=r"patience: found beside no sets or every: 0, expected both"):
        recipe(evaluation={"folder": str(base / "eval"), "patience": 2})


@pytest.mark.parametrize("keep_best", [True, False])
def test_hard_negatives_are_scored_by_the_model_that_is_the_result(recipe, base, scripted, keep_best):
    """As `false-negatives` scores them, which reads model/; the best step is not the last."""
    by_step, _ = scripted
    by_step |= {step: float(step == 2) for step in range(0, 9, 2)}
    evaluation = {"folder": str(base / "eval"), "every": 2, "keep_best": keep_best}
    run = train(recipe(evaluation=evaluation, optimizer={"learning_rate": 0.05}))
    assert read_json(run / "model" / "conan_embed.json")["step"] == (2 if keep_best else 8)
    written = lines(run, "hard_negatives")
    find_false_negatives(run, limit=200)
    assert len(written) > 10 and written == lines(run, "hard_negatives")


def test_hard_negatives_are_those_of_queries_that_training_saw(recipe):
    """Two steps of four queries; the other twelve queries have negatives that no step used."""
    run = train(recipe(training={"steps": 2, "checkpoint_every": 0}))
    queries = {line["query"] for line in lines(run, "hard_negatives")}
    assert 0 < len(queries) <= 8

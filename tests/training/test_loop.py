"""Planning a step while the one before still runs changes nothing."""

import pytest

from conan_embed.training.checkpoint import Progress, Provenance
from conan_embed.training.loop import TrainingLoop
from conan_embed.training.metrics import NoLog
from conan_embed.training.run_folder import RunFolder
from tests.stories.test_world import DEFAULT, JOINT, Run


def loop_of(scenario, cache):
    run = Run(DEFAULT | scenario, cache)
    loop = TrainingLoop(
        folder=RunFolder(cache),
        module=run.module,
        source=run.planner,
        negatives=run.negatives,
        evaluator=None,
        loss=run.recipe.loss,
        optimizer=run.recipe.optimizer,
        training=run.recipe.training,
        evaluation=run.recipe.evaluation,
        num_steps=20,
        progress=Progress(0),
        provenance=Provenance({}, {}),
        log=NoLog(),
        began=0.0,
    )
    return run, loop


def losses_and_windows(scenario, cache):
    run, loop = loop_of(scenario, cache)
    losses, ahead = [], []
    for _ in range(20):
        losses.append(loop._step().loss)
        ahead.append(loop.ahead is not None)
    return losses, run.table.next_Q.copy(), ahead


EACH = JOINT | {"hard_negatives": JOINT["hard_negatives"] | {"rule": "each", "interval": 1, "too_easy": None}}


@pytest.mark.parametrize("scenario", [JOINT, EACH], ids=["mean", "each"])
def test_steps_planned_ahead_are_the_same_steps(tmp_path, monkeypatch, scenario):
    """A step of which a check replaced negatives is planned anew, the last plans nothing; all bits are the same."""
    losses, windows, ahead = losses_and_windows(scenario, tmp_path)
    assert (windows != 3).any()
    assert any(ahead) and not all(ahead[:-1]) and not ahead[-1]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_look_ahead", lambda self: None)
        assert losses_and_windows(scenario, tmp_path)[0] == losses
    # Keeping such a step would train on negatives that are replaced already.
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "_forget_stale_step", lambda self, replaced: None)
        assert losses_and_windows(scenario, tmp_path)[0] != losses

"""A student, a teacher, and a step with in-batch and hard negatives."""

import pytest

from conan_embed.planning.planner import Planner
from conan_embed.recipes.sections import Step
from tests.stories.test_world import make_tasks
from tests.support.cross_encoder import make_cross_encoder
from tests.tiny_models import make_tiny_model


@pytest.fixture
def student():
    return make_tiny_model("bert", dense_width=8, prompts={"query": "问："})


@pytest.fixture
def teacher_model():
    return make_tiny_model("roberta", prompts={"query": "Q: ", "passage": "P: "}, seed=5)


@pytest.fixture
def step(student, tmp_path):
    """The tasks, the table, and the plan of a step with in-batch and hard negatives."""
    tasks, table = make_tasks(student, tmp_path / "cache", tiny=False)
    planner = Planner(tasks, Step(queries=6, num_negatives=2, sts_pairs=0, in_batch="step"), seed=0)
    return tasks, table, planner.step(0, table)


@pytest.fixture
def cross_encoder(tmp_path):
    """A tiny random BERT that scores pairs."""
    return make_cross_encoder(tmp_path / "cross")

"""From the section to a teacher: its width, its prompts, scores of the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from conan_embed.distillation.loading import load_teacher
from conan_embed.errors import UserError
from conan_embed.recipes.teaching import Teacher

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("weights", "width"),
    [({"embedding": 1.0}, 8), ({"kl": 1.0}, 32), ({"ignore_above_positive": 0.0}, 32)],
)
def test_a_wider_teacher_is_projected_where_its_embeddings_are_the_target(
    step, teacher_model, tmp_path, weights, width
):
    tasks, table, plan = step
    teacher_model.save(tmp_path / "teacher")
    settings = Teacher(model=str(tmp_path / "teacher"), precision="float32", **weights)
    teacher = load_teacher(settings, tasks, table, 8, tmp_path, CPU)
    assert teacher.score(plan, CPU).query_QW.shape[1] == width
    wider_student = load_teacher(settings, tasks, table, 64, tmp_path, CPU)
    assert wider_student.score(plan, CPU).query_QW.shape[1] == 32


def test_the_sections_prompts_count_before_the_models(step, teacher_model, tmp_path):
    tasks, table, plan = step
    teacher_model.save(tmp_path / "teacher")
    scores = []
    for prompts in (None, {"query": "Q: "}, {"query": "other: "}):
        settings = Teacher(model=str(tmp_path / "teacher"), kl=1.0, prompts=prompts, precision="float32")
        scores.append(load_teacher(settings, tasks, table, 8, tmp_path, CPU).score(plan, CPU).score_QC)
    assert torch.equal(scores[0], scores[1]) and not torch.equal(scores[0], scores[2])


def test_scores_of_the_data_are_found_by_content(step, tmp_path):
    tasks, table, _ = step
    settings = Teacher(kind="columns", kl=1.0)
    with pytest.raises(UserError, match="no data set has scores"):
        load_teacher(settings, tasks, table, 8, tmp_path, CPU)
    data = tasks.retrieval[0]
    graded = replace(
        data,
        scored_query_X=data.query_Q[:2],
        scored_passage_X=data.passages[:2],
        score_X=np.array([0.5, 2.0]),
    )
    teacher = load_teacher(settings, replace(tasks, retrieval=[graded]), table, 8, tmp_path, CPU)
    content = tasks.store.content
    found = teacher.scores.of(content[data.query_Q[:2]], content[data.passages[:2]])
    assert found.tolist() == [0.5, 2.0]

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


def test_a_loss_of_embeddings_leaves_the_scores_of_the_others_as_they_are(step, teacher_model, tmp_path):
    tasks, table, plan = step
    teacher_model.save(tmp_path / "teacher")
    steps = []
    for embedding in (0.0, 1.0):
        settings = Teacher(
            model=str(tmp_path / "teacher"),
            kl=1.0,
            embedding=embedding,
            ignore_above_positive=0.0,
            precision="float32",
        )
        steps.append(load_teacher(settings, tasks, table, 8, tmp_path, CPU).score(plan, CPU))
    assert torch.equal(steps[0].score_QC, steps[1].score_QC)
    assert all(map(torch.equal, steps[0].ignored, steps[1].ignored))


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
    pairs = data.query_Q[:2], data.positives.values[data.positives.offsets[:2]]
    graded = scored(data, *pairs, [0.5, 2.0])
    teacher = load_teacher(settings, replace(tasks, retrieval=[graded]), table, 8, tmp_path, CPU)
    content = tasks.store.content
    assert teacher.scores.of(*(content[ids] for ids in pairs)).tolist() == [0.5, 2.0]


def scored(data, query, passage, score):
    return replace(data, scored_query_X=query, scored_passage_X=passage, score_X=np.array(score))


def test_it_is_printed_how_much_of_the_data_has_scores(step, tmp_path, capsys):
    """Half the queries with one of their positives, two ranked negatives, and one pair that is no candidate."""
    tasks, table, _ = step
    data, other = tasks.retrieval
    row = np.arange(0, len(data), 2)
    negatives = table.ranking_QK[1, :2].astype(np.int64)
    known = {*data.positives[1], *table.ranking_QK[1], data.query_Q[1]}
    stranger = next(text for text in data.passages if text not in known)
    query = np.concatenate([data.query_Q[row], data.query_Q[[1, 1, 1]]])
    passage = np.concatenate([data.positives.values[data.positives.offsets[row]], negatives, [stranger]])
    graded = scored(data, query, passage, np.ones(len(query)))
    settings = Teacher(kind="columns", kl=1.0)
    load_teacher(settings, replace(tasks, retrieval=[graded, other]), table, 8, tmp_path, CPU)
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith(
        f"r0: {len(row)} of {len(data)} queries have a teacher's score for a positive; "
        f"{len(row) + 2} of {len(row) + 3} scored pairs"
    )
    assert printed[1] == "r1: no scores of a teacher."


def test_scores_that_reach_no_positive_are_refused(step, tmp_path):
    """As where a table writes its texts otherwise than the data."""
    tasks, table, _ = step
    data = tasks.retrieval[0]
    wrong = scored(data, data.query_Q, np.roll(data.query_Q, 1), np.ones(len(data)))
    with pytest.raises(
        UserError, match=r"data.retrieval 'r0': scores for a positive of 0 of its 8 queries in 8"
    ):
        load_teacher(
            Teacher(kind="columns", kl=1.0), replace(tasks, retrieval=[wrong]), table, 8, tmp_path, CPU
        )

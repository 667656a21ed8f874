"""What teachers say of a step: against the teacher itself, pair by pair."""

import json

import numpy as np
import pytest
import torch
import transformers

from conan_embed.distillation.bank import make_banks, principal_axes
from conan_embed.distillation.cross_encoder import pairs_to_score, score_pairs
from conan_embed.distillation.losses import teacher_loss
from conan_embed.distillation.pair_scores import PairScores
from conan_embed.distillation.teacher import BiEncoderTeacher, PairTeacher
from conan_embed.errors import UserError
from conan_embed.objectives.balance import RetrievalPart
from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE
from conan_embed.planning.planner import Planner
from conan_embed.recipes.sections import Step
from conan_embed.recipes.teaching import Teacher
from tests.stories.test_world import make_tasks
from tests.tiny_models import make_tiny_model, tiny_encoder, tiny_tokenizer

CPU = torch.device("cpu")


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


def texts_of(tasks, plan):
    queries, candidates = (
        [tasks.store.text(int(i)) for i in plan.text_ids[positions.numpy()]]
        for positions in (plan.retrieval.query_Q, plan.retrieval.candidate_C)
    )
    return queries, candidates


def test_a_bi_encoder_knows_every_pair_of_a_step(step, teacher_model, tmp_path):
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    said = BiEncoderTeacher(*banks, margin=None, scale=3.0).score(plan, CPU)
    queries, candidates = texts_of(tasks, plan)
    query_QW = teacher_model.encode(queries, prompt="Q: ", precision="float32")
    candidate_CW = teacher_model.encode(candidates, prompt="P: ", precision="float32")
    np.testing.assert_allclose(said.score_QC, 3 * query_QW @ candidate_CW.T, atol=5e-3)
    np.testing.assert_allclose(said.query_QW, query_QW, atol=1e-3)
    np.testing.assert_allclose(said.candidate_CW, candidate_CW, atol=1e-3)
    assert not said.score_QC.isnan().any() and len(said.ignored[0]) == 0


def test_every_text_that_may_become_a_negative_is_in_the_bank(step, teacher_model, tmp_path):
    tasks, table, _ = step
    _, passages = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    for data in tasks.retrieval:
        assert np.isin(data.passages, passages.text_ids).all()
    assert np.isin(table.ranking_QK[table.ranking_QK >= 0], passages.text_ids).all()


def test_the_bank_is_made_once_and_anew_for_another_teacher(step, teacher_model, tmp_path, monkeypatch):
    tasks, _, _ = step
    first = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    monkeypatch.setattr("conan_embed.distillation.bank.embed_with", None)
    again = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    for one, two in zip(first, again, strict=True):
        assert one.key == two.key and np.array_equal(one.rows_NW, two.rows_NW)
    teacher_model.prompts = teacher_model.prompts | {"query": "other: "}
    with pytest.raises(TypeError):  # embeds
        make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")


def test_the_projection_keeps_as_much_of_the_passages_as_any(step, teacher_model, tmp_path):
    """Against the singular value decomposition in float64; the axes are orthogonal."""
    tasks, _, _ = step
    _, whole = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    queries, passages = make_banks(
        teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32", width=8
    )
    rows = whole.rows_NW.astype(np.float64)
    axes = principal_axes(whole.rows_NW, 8)
    np.testing.assert_allclose(axes.T @ axes, np.eye(8), atol=1e-6)
    values = np.linalg.svd(rows, compute_uv=False)
    assert np.square(rows @ axes).sum() == pytest.approx(np.square(values[:8]).sum(), rel=1e-5)
    assert passages.rows_NW.shape[1] == queries.rows_NW.shape[1] == 8
    projected = rows @ axes
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(passages.rows_NW, projected, atol=1e-3)


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.2])
def test_the_guard_ignores_what_the_teacher_puts_above_the_positive(step, teacher_model, tmp_path, margin):
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32")
    said = BiEncoderTeacher(*banks, margin=margin).score(plan, CPU)
    relation, expected = plan.retrieval.relations.to_dense(), set()
    for q, row in enumerate(said.score_QC.tolist()):
        best = max(score for c, score in enumerate(row) if relation[q, c] == POSITIVE)
        expected |= {
            (q, c) for c, score in enumerate(row) if relation[q, c] == NEGATIVE and score > best + margin
        }
    assert set(zip(*(index.tolist() for index in said.ignored), strict=True)) == expected
    assert expected or margin > 0  # or nothing was looked at


def test_scores_of_pairs_reach_their_own_candidates_alone(step):
    tasks, _, plan = step
    content = tasks.store.content
    queries, candidates = plan.text_ids[plan.retrieval.query_Q], plan.text_ids[plan.retrieval.candidate_C]
    relation = plan.retrieval.relations.to_dense().numpy()
    row, column = (index.numpy() for index in plan.retrieval.hard_negative_pairs)
    scores = PairScores(
        content[queries[row]],
        content[candidates[column]],
        np.arange(len(row)),
        num_contents=content.max() + 1,
    )
    said = PairTeacher(scores, margin=None, scale=0.5).score(plan, CPU)
    for number, (q, c) in enumerate(zip(row, column, strict=True)):
        assert said.score_QC[q, c] == number / 2
    known = ~said.score_QC.isnan()
    assert known.sum() < relation.size / 2 and known.any()


def test_losses_are_weighted_and_averaged_over_the_widths(step, student, teacher_model, tmp_path):
    tasks, _, plan = step
    banks = make_banks(teacher_model, tasks.store, tasks.retrieval, tmp_path, precision="float32", width=8)
    said = BiEncoderTeacher(*banks, margin=None).score(plan, CPU)
    part = RetrievalPart(
        torch.randn(len(said.score_QC), 8),
        torch.randn(said.score_QC.shape[1], 8),
        plan.retrieval.relations,
        len(said.score_QC),
        plan.retrieval.hard_negative_pairs,
    )

    def loss(widths=(), **weights):
        return teacher_loss(part, said, Teacher(model="t", **weights), widths).item()

    kl, margins, embedding = (loss(**{name: 1.0}) for name in ("kl", "margin_mse", "embedding"))
    assert min(kl, margins, embedding) > 0
    assert loss(kl=2.0, margin_mse=0.5, embedding=3.0) == pytest.approx(2 * kl + margins / 2 + 3 * embedding)
    narrow = RetrievalPart(part.query_QD[:, :4], part.candidate_CD[:, :4], *list(vars(part).values())[2:])
    of_four = teacher_loss(narrow, said, Teacher(model="t", kl=1.0), ()).item()
    assert loss(widths=(8, 4), kl=1.0) == pytest.approx((kl + of_four) / 2)
    student_NW = torch.nn.functional.normalize(torch.cat([part.query_QD, part.candidate_CD]), dim=1)
    target_NW = torch.nn.functional.normalize(torch.cat([said.query_QW, said.candidate_CW]), dim=1)
    assert embedding == pytest.approx(1 - (student_NW * target_NW).sum(1).mean().item(), rel=1e-5)
    assert (plan.retrieval.relations.to_dense() == IGNORED).any()


# ---------------------------------------------------------------------------------------------------- cross-encoder


@pytest.fixture
def cross_encoder(tmp_path):
    """A tiny random BERT that scores pairs."""
    config = tiny_encoder("bert").config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.BertForSequenceClassification(config)
        for weight in model.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "cross")
    tiny_tokenizer("bert").save_pretrained(tmp_path / "cross")
    return tmp_path / "cross"


def test_a_cross_encoder_scores_positives_and_first_ranks_once(step, cross_encoder, tmp_path, monkeypatch):
    tasks, table, plan = step
    settings = Teacher(
        kind="cross-encoder", model=str(cross_encoder), kl=1.0, depth=3, batch_size=4, precision="float32"
    )
    scores = score_pairs(settings, tasks, table, tmp_path, CPU)
    query, passage = pairs_to_score(tasks, table, 3)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(cross_encoder)
    content = tasks.store.content
    for q, p in list(zip(query, passage, strict=True))[:10]:
        batch = tokenizer(tasks.store.text(int(q)), tasks.store.text(int(p)), return_tensors="pt")
        with torch.no_grad():
            expected = model(**batch).logits.item()
        assert scores.of(content[[q]], content[[p]])[0] == pytest.approx(expected, abs=1e-4)
    asked = set(zip(query.tolist(), passage.tolist(), strict=True))
    first = 0
    for data in tasks.retrieval:
        for row, query_id in enumerate(data.query_Q.tolist()):
            assert {(query_id, p) for p in data.positives[data.list_Q[row]].tolist()} <= asked
            assert {(query_id, p) for p in table.ranking_QK[first + row, :3].tolist() if p >= 0} <= asked
        first += len(data)
    monkeypatch.setattr("conan_embed.distillation.cross_encoder._score", None)
    assert score_pairs(settings, tasks, table, tmp_path, CPU).identity() == scores.identity()
    said = PairTeacher(scores, margin=0.0).score(plan, CPU)
    row, column = plan.retrieval.relations.positives()
    assert not said.score_QC[row, column].isnan().any()


def test_models_that_score_no_pairs_are_refused(step, cross_encoder, tmp_path):
    tasks, table, _ = step
    make_tiny_model("bert").save(tmp_path / "plain")
    path = cross_encoder / "config.json"
    for folder, words in ((tmp_path / "plain", "classifier"), (cross_encoder, "cannot be loaded|labels")):
        if folder == cross_encoder:
            config = json.loads(path.read_text())
            labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
            path.write_text(json.dumps(config | labels))
        settings = Teacher(kind="cross-encoder", model=str(folder), kl=1.0)
        with pytest.raises(UserError, match=f"teacher.model: .*{words}"):
            score_pairs(settings, tasks, table, tmp_path, CPU)

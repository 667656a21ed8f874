"""The loss of a step, from the texts on, against the paper's formulas written out; scores and clipping."""

import numpy as np
import pytest
import torch

from conan_embed.objectives.relations import IGNORED, NEGATIVE, POSITIVE
from conan_embed.planning.planner import Planner
from conan_embed.recipes.sections import Loss, Optimizer, Step, Training
from conan_embed.training.step import embed_step, make_ready, observe_negatives, step_loss, train_step
from conan_embed.training.train_module import TrainModule
from tests.stories.test_world import make_tasks
from tests.tiny_models import make_tiny_model

TRAINING = Training(precision="float32")


def guarded(found, table, cosine, width, margin):
    """The relations without negatives that lie above the query's best positive by more than the margin."""
    table = table.clone()
    for i, query in enumerate(found.query_Q.tolist()):
        score = [cosine(query, c, width).item() for c in found.candidate_C.tolist()]
        best = max(s for c, s in enumerate(score) if table[i, c] == POSITIVE)
        for c, s in enumerate(score):
            if table[i, c] == NEGATIVE and s > best + margin:
                table[i, c] = IGNORED
    return table


def slow_loss(embed, plan, settings, widths):
    """L = L_retrieval + beta L_sts in a loop; `embed` gives the float64 embedding of a place among the texts."""
    found = plan.retrieval
    table = found.relations.rows(0, len(found.rows))
    cosine = lambda a, b, w: torch.cosine_similarity(embed(a)[:w], embed(b)[:w], dim=0)  # noqa: E731
    if settings.ignore_above_positive is not None:
        table = guarded(found, table, cosine, max(widths), settings.ignore_above_positive)
    retrieval = sts = 0.0
    for w in widths:
        for i, query in enumerate(found.query_Q.tolist()):
            score = [cosine(query, c, w) / settings.temperature for c in found.candidate_C.tolist()]
            negatives = sum(torch.exp(s) for c, s in enumerate(score) if table[i, c] == NEGATIVE)
            terms = [
                -torch.log(torch.exp(s) / (torch.exp(s) + negatives))
                for c, s in enumerate(score)
                if table[i, c] == POSITIVE
            ]
            retrieval = retrieval + sum(terms) / len(terms) / len(found.rows) / len(widths)
        pairs = zip(plan.sts.left_P.tolist(), plan.sts.right_P.tolist(), strict=True)
        score = [cosine(left, right, w) for left, right in pairs]
        inside = torch.ones((), dtype=torch.float64)
        for i in range(len(score)):
            for k in range(len(score)):
                if plan.sts.group_P[i] == plan.sts.group_P[k] and plan.sts.label_P[i] > plan.sts.label_P[k]:
                    inside = inside + torch.exp((score[k] - score[i]) / settings.sts_temperature)
        sts = sts + torch.log(inside) / len(widths)
    return retrieval, sts


@pytest.mark.parametrize(
    ("in_batch", "margin"),
    [("step", None), ("dataset", 0.05), ("none", 0.0), ("step_hard", None), ("dataset_hard", 0.0)],
)
def test_loss_scores_and_gradient(in_batch, margin, tmp_path):
    step = Step(queries=5, sts_pairs=4, in_batch=in_batch, num_negatives=3, positives=2)
    settings = Loss(temperature=0.05, beta=0.7, ignore_above_positive=margin)
    model = make_tiny_model("bert", dense_width=10, widths=[4, 7]).double()
    tasks, table = make_tasks(model, tmp_path, tiny=False)
    plan = Planner(tasks, step, seed=1).step(3, table)
    store = tasks.store

    def embed(place):
        return model.embed_tokens(store.tokens, store.offsets, plan.text_ids[place : place + 1])[0]

    retrieval, sts = slow_loss(embed, plan, settings, model.widths)
    (retrieval + 0.7 * sts).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    module = TrainModule(model, Optimizer(), TRAINING)
    loss = step_loss(embed_step(module, make_ready(module, plan)), plan, settings, model.widths)
    loss.total.backward()
    torch.testing.assert_close(loss.retrieval, retrieval.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss.sts, sts.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss.total, (retrieval + 0.7 * sts).detach(), rtol=1e-9, atol=1e-9)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, expected[name], rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )

    cosine = lambda a, b: torch.cosine_similarity(embed(a), embed(b), dim=0).item()  # noqa: E731
    rows = plan.retrieval.rows
    expected = np.full((len(rows), 3), np.nan)
    in_use = table.in_use(rows).tolist()
    for row, column in zip(*(x.tolist() for x in plan.retrieval.hard_negative_pairs), strict=True):
        candidate = int(plan.retrieval.candidate_C[column])
        slot = in_use[row].index(plan.text_ids[candidate])
        expected[row, slot] = cosine(int(plan.retrieval.query_Q[row]), candidate)
    result = train_step(module, make_ready(module, plan), settings, max_grad_norm=1.0)
    assert result.negative_score == pytest.approx(np.nanmean(expected, axis=1).mean(), rel=1e-9)
    observe_negatives(table, plan, result)
    np.testing.assert_allclose(table.initial_QN[rows], expected, rtol=1e-6)
    assert np.isnan(np.delete(table.initial_QN, rows, axis=0)).all()
    assert result.positive_share + result.hard_share + result.in_batch_share == pytest.approx(1)
    assert (result.ignored is None) == (margin is None)
    if in_batch == "none":
        assert result.in_batch_share == pytest.approx(0, abs=1e-9)


def test_the_gradient_is_clipped_and_its_norm_told(tmp_path):
    model = make_tiny_model("bert", dense_width=10).double()
    tasks, table = make_tasks(model, tmp_path, tiny=False)
    plan = Planner(tasks, Step(queries=5, sts_pairs=4), seed=1).step(0, table)
    module = TrainModule(model, Optimizer(), TRAINING)
    seen = []
    module.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in model.parameters())
    )
    result = train_step(module, make_ready(module, plan), Loss(temperature=0.05), max_grad_norm=1e-3)
    norm = torch.stack([gradient.square().sum() for gradient in seen]).sum().sqrt().item()
    assert result.gradient_norm > 1
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_spread_out_term_is_of_different_queries_and_of_different_positives(tmp_path):
    settings = Loss(temperature=0.05, spread_out=0.3)
    model = make_tiny_model("bert", dense_width=10, widths=[4]).double()
    tasks, table = make_tasks(model, tmp_path, tiny=False)
    step = Step(queries=6, sts_pairs=2, in_batch="step", num_negatives=2, positives=2)
    plan = Planner(tasks, step, seed=1).step(3, table)
    module = TrainModule(model, Optimizer(), TRAINING)
    embedding_UD = embed_step(module, make_ready(module, plan))
    part = plan.retrieval
    dense = part.relations.to_dense()
    positives = {int(part.candidate_C[c]) for c in range(dense.shape[1]) if (dense[:, c] == POSITIVE).any()}
    expected = 0.0
    for texts in (set(part.query_Q.tolist()), positives):
        for width in model.widths:
            unit = torch.nn.functional.normalize(embedding_UD[:, :width], dim=1)
            pairs = [(unit[a] @ unit[b]) ** 2 for a in texts for b in texts if a != b]
            expected = expected + 0.3 * sum(pairs) / len(pairs) / len(model.widths)
    loss = step_loss(embedding_UD, plan, settings, model.widths)
    without = step_loss(embedding_UD, plan, Loss(temperature=0.05), model.widths)
    torch.testing.assert_close(loss.total - without.total, expected)
    assert without.spread is None and loss.retrieval == without.retrieval
    result = train_step(module, make_ready(module, plan), settings, max_grad_norm=None)
    assert result.spread == pytest.approx(expected.item()) and result.loss == pytest.approx(loss.total.item())

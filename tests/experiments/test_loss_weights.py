"""The changed losses of the experiment on hard negatives against their formulas, in float64 and by autograd."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.functional import normalize

from conan_embed.objectives import balance
from conan_embed.objectives.relations import Relations

QUERIES, NEGATIVES, WIDTH, TAU = 5, 3, 8, 0.1


@pytest.fixture
def loss_weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments/hard-negatives"))
    module = importlib.import_module("loss_weights")
    yield module
    module.install("")
    monkeypatch.delenv(module.VARIABLE, raising=False)
    sys.modules.pop("loss_weights", None)


def reference(
    query_QD: torch.Tensor, candidate_CD: torch.Tensor, gamma: float, alpha: float, mixed: bool
) -> torch.Tensor:
    """The loss, query by query."""
    cosine_QC = normalize(query_QD, dim=1) @ normalize(candidate_CD, dim=1).T
    columns = QUERIES + torch.arange(QUERIES * NEGATIVES)
    generator = torch.Generator().manual_seed(int(columns.sum()))
    share = torch.rand(3, len(columns), generator=generator).median(dim=0).values.double()
    total = query_QD.new_zeros(())
    for i in range(QUERIES):
        own = [QUERIES + i * NEGATIVES + j for j in range(NEGATIVES)]
        logits = [cosine_QC[i, i] / TAU]
        logits += [cosine_QC[i, k] / TAU + alpha * cosine_QC[i, k].detach() for k in own]
        for j in range(NEGATIVES if mixed else 0):
            one, other = (normalize(candidate_CD[own[k % NEGATIVES]], dim=0) for k in (j, j + 1))
            made_up = share[i * NEGATIVES + j] * one + (1 - share[i * NEGATIVES + j]) * other
            logits.append(normalize(query_QD[i], dim=0) @ normalize(made_up, dim=0) / TAU)
        log_share = torch.log_softmax(torch.stack(logits), dim=0)[0]
        total = total - (1 - log_share.exp().detach()) ** gamma * log_share / QUERIES
    return total


@pytest.mark.parametrize(
    ("change", "gamma", "alpha", "mixed"),
    [("", 0, 0, False), ("focal=0.5", 0.5, 0, False), ("hardness=5", 0, 5, False), ("mixing", 0, 0, True)],
)
def test_loss_and_gradients_are_those_of_the_formula(
    loss_weights: ModuleType, change: str, gamma: float, alpha: float, mixed: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    leaves = [
        torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
        for rows in (QUERIES, QUERIES * (1 + NEGATIVES))
    ]
    row = torch.arange(QUERIES).repeat_interleave(NEGATIVES)
    column = QUERIES + torch.arange(QUERIES * NEGATIVES)
    loss_weights.install(change)
    loss = balance.infonce(
        *leaves,
        Relations.one_positive(QUERIES, negatives_per_query=NEGATIVES),
        temperature=TAU,
        hard_negative_pairs=(row, column),
    ).loss
    expected = reference(*leaves, gamma, alpha, mixed)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for gradient, right in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-14)

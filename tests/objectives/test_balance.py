"""The joint loss is the sum of its parts, of whichever a step holds, and parts of it add up to the whole."""

import pytest
import torch

from conan_embed.objectives.balance import RetrievalPart, StsPart, joint_loss
from conan_embed.objectives.cosent import cosent_of_pairs
from conan_embed.objectives.infonce import infonce
from conan_embed.objectives.relations import Relations

SETTINGS = {"temperature": 0.1, "sts_temperature": 0.2, "widths": (6, 3)}
NO_PAIRS = (torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, dtype=torch.float64, generator=generator).requires_grad_()


QUERY_QD, CANDIDATE_CD, LEFT_PD, RIGHT_PD = rows(4, 0), rows(12, 1), rows(5, 2), rows(5, 3)
LABEL_P, GROUP_P = (
    torch.tensor([0.0, 1.0, 2.0, 1.0, 0.5], dtype=torch.float64),
    torch.zeros(5, dtype=torch.int64),
)


def relations():
    return Relations.one_positive(4, negatives_per_query=2)


def retrieval_part(start=0, stop=4):
    return RetrievalPart(QUERY_QD[start:stop], CANDIDATE_CD, relations().part(start, stop), 4, NO_PAIRS)


def sts_part(share=1.0):
    return StsPart(LEFT_PD, RIGHT_PD, LABEL_P, GROUP_P, share)


def test_both_tasks_with_beta():
    loss = joint_loss(retrieval_part(), sts_part(), beta=0.7, **SETTINGS)
    nce = infonce(QUERY_QD, CANDIDATE_CD, relations(), temperature=0.1, widths=(6, 3)).loss
    sts, _ = cosent_of_pairs(LEFT_PD, RIGHT_PD, LABEL_P, GROUP_P, temperature=0.2, widths=(6, 3))
    torch.testing.assert_close(loss.retrieval, nce.detach())
    torch.testing.assert_close(loss.sts, sts.detach())
    torch.testing.assert_close(loss.total, nce + 0.7 * sts)


def test_a_step_of_one_task():
    only = joint_loss(retrieval_part(), None, beta=0.7, **SETTINGS)
    assert only.sts is None
    torch.testing.assert_close(only.total.detach(), only.retrieval)
    only = joint_loss(None, sts_part(), beta=0.5, **SETTINGS)
    assert only.retrieval is only.nce is None
    torch.testing.assert_close(only.total.detach(), 0.5 * only.sts)


@pytest.mark.parametrize("cut", [0, 1, 3])
def test_the_parts_of_two_processes_add_up_to_the_step(cut):
    every = (QUERY_QD, CANDIDATE_CD, LEFT_PD, RIGHT_PD)
    whole = joint_loss(retrieval_part(), sts_part(), beta=0.7, **SETTINGS).total
    parts = [
        joint_loss(retrieval_part(*ends), sts_part(0.5), beta=0.7, **SETTINGS).total
        for ends in ((0, cut), (cut, 4))
    ]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    expected = torch.autograd.grad(whole, every)
    for found, wanted in zip(torch.autograd.grad(parts[0] + parts[1], every), expected, strict=True):
        torch.testing.assert_close(found, wanted)

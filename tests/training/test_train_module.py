"""A model and its optimizer on one process: moments that go out and come back, clipping, finite weights."""

import numpy as np
import pytest
import torch

from conan_embed.recipes.sections import Optimizer, Training
from conan_embed.training import train_module
from conan_embed.training.train_module import TrainModule
from tests.tiny_models import make_tiny_model


@pytest.fixture
def make_module():
    return lambda seed=0: TrainModule(
        make_tiny_model("bert", seed=seed), Optimizer(), Training(precision="float32")
    )


def update(module, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    module.optimizer.step()
    module.optimizer.zero_grad(set_to_none=True)


def test_parameters_and_moments_are_all_that_a_step_depends_on(make_module):
    one, other = make_module(), make_module(seed=1)
    assert one.moments() == {}
    for seed in (1, 2):
        update(one, seed)
    for name, parameter in other.parameters().items():
        parameter.copy_(one.parameters()[name])
    moments = other.fresh_moments(set(one.moments()))
    assert all((moment == 0).all() for moment in moments.values())
    for name, moment in moments.items():
        moment.copy_(one.moments()[name])
    other.set_moments(moments, 2)
    for module in (one, other):
        update(module, 3)
    for name, parameter in one.parameters().items():
        assert torch.equal(parameter, other.parameters()[name]), name


def test_only_moments_that_are_known_are_asked_for(make_module):
    module = make_module()
    update(module, 0)
    known = sorted(module.moments())[:3]
    assert sorted(module.fresh_moments({*known, "exp_avg.of_another_model"})) == known


@pytest.mark.parametrize("limit", [None, 0.5])
def test_the_norm_told_is_that_before_clipping(make_module, limit):
    module = make_module()
    for parameter in module.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    count = sum(parameter.numel() for parameter in module.model.parameters())
    assert module.clip_gradient(limit).item() == pytest.approx(count**0.5)
    norm = sum(parameter.grad.square().sum() for parameter in module.model.parameters()).sqrt().item()
    assert norm == pytest.approx(count**0.5 if limit is None else limit, rel=1e-4)


def test_one_weight_that_is_no_number_is_seen(make_module):
    module = make_module()
    assert module.is_finite()
    next(iter(module.parameters().values())).view(-1)[3] = float("inf")
    assert not module.is_finite()


def test_a_copy_in_main_memory_is_never_made_on_the_device(monkeypatch):
    """An object that copies itself where it lies, as tensors do, and notes how much each device has held."""
    most = {"cuda": 0, "cpu": 0}

    class OnDevice:
        def __init__(self, device):
            self.device = torch.device(device)
            copies.append(self)
            for kind in most:
                most[kind] = max(most[kind], sum(each.device.type == kind for each in copies))

        def to(self, device):
            self.device = torch.device(device)
            return self

        def cpu(self):
            return self.to("cpu")

        def __deepcopy__(self, _):
            return OnDevice(self.device)

    copies = []
    model = OnDevice("cuda:1")
    copied = train_module._copy_in_main_memory(model)
    assert (model.device, copied.device) == (torch.device("cuda:1"), torch.device("cpu"))
    assert most == {"cuda": 1, "cpu": 2}


def test_the_share_of_the_only_process_is_all_texts_in_order(make_module):
    from types import SimpleNamespace

    module = make_module()
    lengths = np.array([5, 3, 7])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(offsets[-1], dtype=np.int32) % 50 + 5
    texts = SimpleNamespace(tokens=tokens, offsets=offsets, lengths=lambda ids: lengths[ids])
    share = module.pack_share(texts, [np.array([2, 0])])
    embedded = module.embed_share(share)
    for row, text in zip(embedded, (2, 0), strict=True):
        alone = module.model.embed_tokens(tokens, offsets, np.array([text]))[0]
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)
    with module.whole() as whole:
        assert whole is module.model

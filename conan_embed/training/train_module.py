"""The model in training and its optimizer, as the processes hold them together: `training.sharding`.

- `none`: every process holds everything. DistributedDataParallel sums the gradients, bucket by bucket, while the
  backward pass still runs.
- `optimizer`: the same, but a process keeps AdamW's moments of its share of the parameters only, updates these, and
  sends them to the others (ZeRO stage 1, which the paper uses).
- `full`: parameters, gradients and moments are cut into as many pieces as there are processes (FSDP2). A layer is
  whole only while it computes, so all processes must go through it equally often.

Loss, gradients and steps are the same to rounding. A process that is alone holds everything, whatever the setting.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.packed_encoder import encoder_layers
from conan_embed.encoder.packing import Chunk
from conan_embed.encoder.passes import num_passes
from conan_embed.recipes.sections import Optimizer, Training
from conan_embed.texts.store import Texts
from conan_embed.training.memory import Memory
from conan_embed.training.optimizer import make_optimizer

_MOMENTS = ("exp_avg", "exp_avg_sq")


class TrainModule:
    """A model and its optimizer on the processes of a run.

    Args:
        model: on its device.
        optimizer, training: the recipe's sections.

    Attributes:
        model: this process's model; under `full` its parameters are `DTensor`s, of which each process holds a piece.
        optimizer: AdamW over them.
        memory: how large chunks are and when activations are computed again; smaller after an out-of-memory error.
    """

    def __init__(self, model: EmbeddingModel, optimizer: Optimizer, training: Training) -> None:
        alone = collectives.world_size() == 1
        sharding = "none" if alone else training.sharding
        self.model, self.settings = model, training
        self._whole = model
        self._embed_share: nn.Module = _EmbedShare(model)
        if sharding == "full":
            if collectives.is_main_process():
                self._whole = _copy_in_main_memory(model)
            _shard(model)
        elif not alone:
            self._embed_share = _summing(self._embed_share)
        self.optimizer = make_optimizer(model, optimizer, share_state=sharding == "optimizer")
        if training.compile:
            model.compile_layers()
        self.memory = Memory.of(training, model.device)

    def pack_share(self, texts: Texts, shares: Sequence[np.ndarray]) -> "PackedShare":
        """Pack this process's share of a step, on its device; on a GPU nobody waits for the copies.

        Args:
            shares: for each process the ids of its texts.
        """
        budget = self.memory.chunk_tokens
        mine = shares[collectives.rank()]
        most = max(int(texts.lengths(share).sum()) for share in shares)
        chunks = list(self.model.pack(texts.tokens, texts.offsets, mine, token_budget=budget))
        passes = num_passes(self.model, texts, shares, budget)
        return PackedShare(chunks, self.memory.checkpoints_activations(most), passes, budget)

    def embed_share(self, share: "PackedShare") -> torch.Tensor:
        """Embed this process's share of a step, with gradient; the backward pass sums the gradients of all processes.

        Returns:
            float [texts of the share, D], not normalised.
        """
        return self._embed_share(
            share.chunks, activation_checkpointing=share.activation_checkpointing, num_passes=share.num_passes
        )

    def clip_gradient(self, limit: float | None) -> torch.Tensor:
        """Scale the gradient down to norm `limit`; return its norm before, that of the whole model (a scalar)."""
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), float("inf") if limit is None else limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def is_finite(self) -> bool:
        """Return, on every process, whether all parameters are finite numbers."""
        finite = [torch.isfinite(_local(parameter)).all() for parameter in self.model.parameters()]
        return collectives.all_true(bool(torch.stack(finite).all()))

    @contextlib.contextmanager
    def whole(self) -> Iterator[EmbeddingModel]:
        """Give the first process the model with all its parameters, to evaluate or save; all processes must call it.

        The others get a model that they must not use.
        """
        if self._whole is self.model and not isinstance(self.model, FSDPModule):
            yield self.model
            return
        # On the first process alone, and there in main memory; empty on the others.
        parameters = get_model_state_dict(
            self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        if not collectives.is_main_process():
            yield self.model
            return
        self._whole.load_state_dict(parameters)
        self._whole.train(self.model.training)
        try:
            yield self._whole.to(self.model.device)
        finally:
            self._whole.cpu()

    # ------------------------------------------------------------------------------------------- for checkpoints

    def parameters(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters by name, to be read or written in place."""
        return {name: parameter.detach() for name, parameter in self._named()}

    def moments(self) -> dict[str, torch.Tensor]:
        """Return AdamW's moments that this process holds, as `exp_avg.NAME` and `exp_avg_sq.NAME`."""
        return {
            f"{moment}.{name}": state[moment]
            for name, parameter in self._held()
            if (state := self._local_optimizer.state.get(parameter))
            for moment in _MOMENTS
        }

    def fresh_moments(self, known: set[str]) -> dict[str, torch.Tensor]:
        """Return zeros in the shapes of `moments()`, for those names among `known`."""
        return {
            f"{moment}.{name}": torch.zeros_like(parameter.detach())
            for name, parameter in self._held()
            for moment in _MOMENTS
            if f"{moment}.{name}" in known
        }

    def set_moments(self, moments: dict[str, torch.Tensor], step: int) -> None:
        """Let the optimizer go on from these moments, after `step` steps."""
        for name, parameter in self._held():
            if f"{_MOMENTS[0]}.{name}" in moments:
                self._local_optimizer.state[parameter] = {
                    "step": torch.tensor(float(step), device=parameter.device),
                    **{moment: moments[f"{moment}.{name}"] for moment in _MOMENTS},
                }

    @property
    def _local_optimizer(self) -> torch.optim.Optimizer:
        return self.optimizer.optim if isinstance(self.optimizer, ZeroRedundancyOptimizer) else self.optimizer

    def _held(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters whose moments this process keeps."""
        held = {id(p) for group in self._local_optimizer.param_groups for p in group["params"]}
        return ((name, p) for name, p in self._named() if id(p) in held)

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        if isinstance(self.model, FSDPModule):
            # What lies outside the layers stays gathered after a forward pass without gradient, and then the model
            # shows other tensors than those that the optimizer knows.
            self.model.reshard()
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)


@dataclass(frozen=True)
class PackedShare:
    """One process's texts of a step, ready on its device, and how to go through them."""

    chunks: list[Chunk]
    activation_checkpointing: bool
    num_passes: int
    token_budget: int


class _EmbedShare(nn.Module):
    """All of a process's share of a step as one forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: EmbeddingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, chunks: list[Chunk], **settings: Any) -> torch.Tensor:
        return self.model.embed_chunks(chunks, **settings)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _summing(module: nn.Module) -> nn.Module:
    """Wrap `module` so that gradients are summed, not averaged: every process has its own part of one loss."""
    # With `find_unused_parameters` the buckets stay as they are laid out at first. Otherwise the second step lays them
    # out anew; where a value lies in a bucket decides in which order more than two processes are added, and a resumed
    # run would differ in the last bits.
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    replicas = DistributedDataParallel(
        module, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
    )
    replicas.register_comm_hook(None, _sum_bucket)
    return replicas


def _sum_bucket(_: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


def _copy_in_main_memory(model: EmbeddingModel) -> EmbeddingModel:
    """Copy a model without a second one on its device, which may have no room for it."""
    device = model.device
    copied = copy.deepcopy(model.cpu())
    model.to(device)
    return copied


def _shard(model: EmbeddingModel) -> None:
    """Cut every encoder layer, and the rest, into pieces on the processes."""
    mesh = init_device_mesh(model.device.type, (collectives.world_size(),))
    for module in (*encoder_layers(model.encoder), model):
        # Weights stay float32 and autocast narrows what is multiplied, as without sharding: the same numbers.
        # (FSDP2's own mixed precision would run norms and residuals in 16 bits too.)
        fully_shard(module, mesh=mesh)
        assert isinstance(module, FSDPModule)
        # A sum, not a mean; gloo knows no other.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)

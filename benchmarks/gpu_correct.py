"""Parts of benchmarks/gpu.sh that ask whether results are right: packed, compiled, recomputed, in a process group."""

import os
import socket
import tempfile
import time
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_bench import Bench, say
from benchmarks.gpu_models import SIZES, VOCABULARY, model_folder


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm())


def correct(bench: Bench) -> None:
    """Loss and gradient of packed bfloat16 against float32 in padded batches of transformers' own attention."""
    from conan_embed.encoder.encode import autocast
    from conan_embed.objectives.infonce import infonce
    from conan_embed.objectives.relations import Relations
    from tests.tiny_models import FAMILIES, VOCABULARY, make_tiny_model

    generator = np.random.default_rng()
    lengths = generator.integers(1, 100, 48)
    tokens = generator.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    zero, place = torch.zeros(16, dtype=torch.long), torch.arange(16)
    relations = Relations(zero, zero.repeat(2), place, place, torch.ones(16, dtype=torch.int8))

    def gradients(model: torch.nn.Module, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = infonce(embedding[:16], embedding[16:], relations, temperature=0.5, widths=(16, 64)).loss
        model.zero_grad()
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    for compiled in (False, True) if bench.cuda else (False,):
        for family in ("bert", "modernbert") if compiled else FAMILIES:
            model = make_tiny_model(family, hidden=64).to(bench.device)
            expected = gradients(model, _padded(model, tokens, offsets, bench.device))
            if compiled:
                model.compile_layers()
            with autocast(bench.device, "bfloat16"):
                embedding = model.embed_tokens(tokens, offsets, np.arange(48), token_budget=1000)
            found = gradients(model, embedding)
            loss, gradient = (_relative(a, b) for a, b in zip(found, expected, strict=True))
            name = f"{family}, packed bf16{' compiled' if compiled else ''} against padded float32"
            say(name=name, loss=loss, gradient=gradient, ok=loss < 0.02 and gradient < 0.1)


def _padded(model: Any, tokens: np.ndarray, offsets: np.ndarray, device: torch.device) -> torch.Tensor:
    import copy

    encoder = model.encoder
    own = encoder.config._attn_implementation
    encoder.set_attn_implementation("sdpa")
    batch = [torch.from_numpy(part.astype(np.int64)) for part in np.split(tokens, offsets[1:-1])]
    ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=encoder.config.pad_token_id)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(np.diff(offsets))[:, None]
    ids, mask = ids.to(device), mask.to(device)
    hidden = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    encoder.set_attn_implementation(copy.copy(own))
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def checkpointing(bench: Bench) -> None:
    """Gradients with activations computed again are those with activations kept, with dropout, too: the same masks."""
    for compiled in (False, True) if bench.cuda else (False,):
        for dropout in (0.0, 0.3):
            loss, gradient, other_masks = _recomputed(bench, dropout, compiled)
            say(
                name=f"checkpointed against kept activations, dropout {dropout}{', compiled' if compiled else ''}",
                loss=loss,
                gradient=gradient,
                gradient_of_other_masks=other_masks,
                ok=loss < 1e-3 and gradient < (0.2 * other_masks if dropout else 0.01),
            )


def _recomputed(bench: Bench, dropout: float, compiled: bool) -> tuple[float, float, float]:
    """Return the relative differences of loss and gradient over three chunks, and that of a gradient of other masks."""
    from conan_embed.encoder.encode import autocast
    from conan_embed.encoder.model import EmbeddingModel

    model = EmbeddingModel.load(model_folder("tiny", bench.folder), dropout=dropout).to(bench.device).train()
    if compiled:
        model.compile_layers()
    generator = np.random.default_rng(0)
    lengths = generator.integers(3, 30, 200)  # short: a mean over many tokens hides their masks
    tokens = generator.integers(5, VOCABULARY, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    goal = torch.from_numpy(generator.normal(size=(200, SIZES["tiny"].hidden))).to(bench.device).float()

    def gradients(again: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        model.zero_grad()
        with autocast(bench.device, "bfloat16"):
            embedding = model.embed_tokens(
                tokens, offsets, np.arange(200), token_budget=1200, activation_checkpointing=again
            )
        loss = (embedding - goal).square().mean()
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    kept, recomputed, other = gradients(again=False), gradients(again=True), gradients(again=True, seed=1)
    loss, gradient = (_relative(a, b) for a, b in zip(recomputed, kept, strict=True))
    return loss, gradient, _relative(other[1], kept[1])


def world(bench: Bench) -> None:
    """Steps of the joint loss with replaced negatives, in a process group of one (NCCL on a GPU) and without any.

    Also how long a check of a million queries' negatives takes, every hundred steps or so.
    """
    from conan_embed.distributed import collectives
    from conan_embed.negatives.rules import make_rule
    from conan_embed.negatives.table import NegativeTable
    from conan_embed.recipes.schema import Replacement
    from conan_embed.training.train_module import _summing
    from tests.stories import test_world

    def losses(grouped: bool) -> tuple[list[float], int]:
        scenario = test_world.DEFAULT | test_world.JOINT | {"dtype": "float32", "num_steps": 12}
        with tempfile.TemporaryDirectory() as cache:
            run = test_world.Run(scenario, cache)
            run.module.model.to(bench.device)
            if grouped:
                run.module._embed_share = _summing(run.module._embed_share)
            found = [run.step(number)["loss"] for number in range(12)]
            return found, run.replaced

    alone, replaced = losses(False)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    collectives.start(bench.device.type)
    # A world of one skips its collectives; here they are the point.
    collectives.all_gather_rows = lambda local, counts: collectives._AllGatherRows.apply(local, list(counts))
    collectives.all_reduce_sum = lambda tensor: (torch.distributed.all_reduce(tensor), tensor)[1]
    grouped, _ = losses(True)
    collectives.stop()
    difference = max(abs(a - b) for a, b in zip(alone, grouped, strict=True))
    say(
        name=f"joint loss and dynamic negatives, {'NCCL' if bench.cuda else 'gloo'}, one process",
        difference=difference,
        replaced=replaced,
        ok=difference < 1e-3 and replaced > 0,
    )
    queries = 10_000 if bench.small else 1_000_000
    generator = np.random.default_rng(0)
    rule = make_rule(Replacement(source="ranking"))
    table = NegativeTable(generator.integers(0, 10**6, (queries, 100), dtype=np.int32), 7)
    table.observe(np.arange(queries), generator.random((queries, 7), np.float32))
    table.observe(np.arange(queries), generator.random((queries, 7), np.float32))
    started = time.perf_counter()
    learned = rule.learned(table.initial_QN, table.current_QN, table.share_QN)
    milliseconds = 1e3 * (time.perf_counter() - started)
    say(
        name=f"rule over {queries:,} queries, ms",
        value=milliseconds,
        replaced=int(learned.any(axis=-1).sum()),
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

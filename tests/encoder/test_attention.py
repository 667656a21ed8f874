"""The GPU's path through the encoder, without a GPU: torch's own `varlen_attn` over a slow kernel for CPUs.

Signature, shapes, offsets, windows, gradient and tracing are those of the installed torch; only the arithmetic inside
is replaced, by loops over texts. What a GPU computes is checked by benchmarks/gpu.sh.
"""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen

from conan_embed.encoder import attention, packed_encoder
from conan_embed.encoder.packed_encoder import compiled_graphs
from conan_embed.encoder.packing import PADDED_TO
from tests.encoder.test_packed_encoder import (
    LENGTHS,
    assert_same_gradients,
    embeddings_and_gradients,
    own_encoder,
    padded_embeddings,
    random_texts,
)
from tests.tiny_models import FAMILIES, make_tiny_model

CALLS: list[tuple[int, int]] = []  # of the kernel: window to the left and to the right


def texts_of(query, key, value, offsets, scale, window):
    """Yield for each text its slice, q, k and v as [H, length, E], and the softmax of its scores."""
    for start, stop in itertools.pairwise(offsets.tolist()):
        q, k, v = (tensor[start:stop].transpose(0, 1) for tensor in (query, key, value))
        score = q @ k.transpose(1, 2) * scale
        ahead = torch.arange(stop - start) - torch.arange(stop - start)[:, None]
        left, right = window
        hidden = torch.zeros_like(ahead, dtype=torch.bool)
        hidden |= (ahead < -left) if left >= 0 else False
        hidden |= (ahead > right) if right >= 0 else False
        yield slice(start, stop), q, k, v, score.masked_fill(hidden, -torch.inf).softmax(2)


def checked(query, key, value, offsets, longest):
    assert query.shape == key.shape == value.shape
    assert query.stride(2) == key.stride(2) == value.stride(2) == 1, "the kernel wants whole rows"
    assert offsets.dtype == torch.int32
    assert offsets[0] == 0 and offsets[-1] == len(query)
    assert longest == offsets.diff().max()


@pytest.fixture(scope="module", autouse=True)
def kernel_for_cpus():
    def forward(query, key, value, offsets, _, longest, __, is_causal, scale, window, *rest):
        checked(query, key, value, offsets, longest)
        CALLS.append(tuple(window))
        output = torch.empty_like(query)
        for text, _q, _k, v, weight in texts_of(query, key, value, offsets, scale, window):
            output[text] = (weight @ v).transpose(0, 1)
        return output, query.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)

    def backward(grad, query, key, value, out, lse, offsets, _, longest, __, causal, rng, scale, window):
        found = [torch.empty_like(tensor) for tensor in (query, key, value)]
        for text, q, k, v, weight in texts_of(query, key, value, offsets, scale, window):
            above = grad[text].transpose(0, 1)
            slope = above @ v.transpose(1, 2)
            slope = weight * (slope - (slope * weight).sum(2, keepdim=True)) * scale
            parts = slope @ k, slope.transpose(1, 2) @ q, weight.transpose(1, 2) @ above
            for gradient, part in zip(found, parts, strict=True):
                gradient[text] = part.transpose(0, 1)
        return tuple(found)

    varlen._varlen_attn.register_kernel("cpu")(forward)
    varlen._varlen_attn_backward.register_kernel("cpu")(backward)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(attention, "has_kernel", lambda device: True)
    monkeypatch.setattr(attention, "kernel_takes", lambda query, dropout, softcap: True)

    def layout(packed):
        return packed.offsets_N1, packed.max_length

    monkeypatch.setattr(packed_encoder, "layout_arguments", layout)
    monkeypatch.setattr(packed_encoder.PackedEncoder, "_pads_stream", True)
    CALLS.clear()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_through_the_kernel(family, as_on_a_gpu):
    """Embeddings and gradients are those of the padded model, and ModernBERT's window arrives."""
    model, reference = make_tiny_model(family), make_tiny_model(family)
    encoder = own_encoder(reference)
    tokens, offsets = random_texts()
    text_ids = np.arange(len(LENGTHS))
    found = embeddings_and_gradients(
        model,
        lambda: model.embed_tokens(
            tokens, offsets, text_ids, token_budget=100, activation_checkpointing=True
        ),
    )
    both = torch.nn.ModuleDict({"encoder": encoder})
    expected = embeddings_and_gradients(
        both, lambda: padded_embeddings(model, encoder, None, tokens, offsets, text_ids)
    )
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert_same_gradients(found[1], expected[1], 2e-3)
    windows = {(-1, -1), (4, 4)} if family == "modernbert" else {(-1, -1)}
    assert set(CALLS) == windows


def test_causal_windows_and_fewer_key_heads(as_on_a_gpu):
    """A decoder's attention: the arguments are turned into the kernel's, and its heads are repeated."""
    model = make_tiny_model("bert")
    tokens, offsets = random_texts((5, 3))
    (chunk,) = model.pack(tokens, offsets, np.arange(2), token_budget=100)
    packed = chunk.packed
    query, key, value = (torch.randn(1, heads, PADDED_TO, 8) for heads in (4, 2, 2))
    module = SimpleNamespace(is_causal=True)
    settings = {"scaling": 0.3, "sliding_window": 3}
    CALLS.clear()  # the model's test of itself
    with attention.packed_stream(packed):
        found, _ = attention.packed_attention(module, query, key, value, None, **settings)
        expected = attention._padded_blocks(
            packed, query, key, value, attention._Settings(0.3, 0.0, causal=True, reach=2)
        )
    assert CALLS == [(2, 0)]
    torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "dtype", "dropout", "taken"),
    [
        (64, torch.bfloat16, 0.0, True),
        (256, torch.float16, 0.0, True),
        (64, torch.float32, 0.0, False),
        (64, torch.bfloat16, 0.1, False),
        (20, torch.bfloat16, 0.0, False),
        (264, torch.bfloat16, 0.0, False),
    ],
)
def test_what_the_kernel_takes(size, dtype, dropout, taken):
    query = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(1, 12, 100, size))
    assert attention.kernel_takes(query, dropout) is taken


@pytest.mark.parametrize(
    ("capability", "runs"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_older_gpus_have_no_kernel(monkeypatch, capability, runs):
    """The kernel ends with an error on a V100 or T4, whatever it is asked for; there the blocks are padded."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    attention.has_kernel.cache_clear()
    gpu = SimpleNamespace(device=torch.device("cuda", 5), offsets_N1=torch.tensor([0, 3, 8]), max_length=5)
    assert (attention.layout_arguments(gpu) is not None) is runs
    attention.has_kernel.cache_clear()
    assert not attention.has_kernel(torch.device("cpu"))


def test_what_the_kernel_would_take_is_padded_where_there_is_none(as_on_a_gpu, monkeypatch):
    model = make_tiny_model("bert")
    tokens, offsets = random_texts()
    ids = np.arange(len(LENGTHS))
    expected = model.embed_tokens(tokens, offsets, ids)
    assert CALLS
    CALLS.clear()
    monkeypatch.setattr(attention, "has_kernel", lambda device: False)
    torch.testing.assert_close(model.embed_tokens(tokens, offsets, ids), expected, rtol=1e-4, atol=1e-5)
    assert not CALLS


def test_a_stream_filled_up_embeds_the_same(monkeypatch):
    plain = make_tiny_model("roberta", dense_width=8)
    tokens, offsets = random_texts()
    text_ids = np.arange(len(LENGTHS))
    with torch.no_grad():
        expected = plain.embed_tokens(tokens, offsets, text_ids)
        monkeypatch.setattr(packed_encoder.PackedEncoder, "_pads_stream", True)
        chunks = list(plain.pack(tokens, offsets, text_ids, token_budget=70))
        found = plain.embed_chunks(chunks, num_passes=9)
    assert len(chunks) > 2
    assert all(len(chunk.packed.token_ids_T) % PADDED_TO == 0 for chunk in chunks)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_compiled_layers_compute_the_same_without_recompiling(as_on_a_gpu, monkeypatch):
    """The kernel inside traced code; chunks of all sizes after the first two need no new code.

    Traced, differentiated and run, but without the code generator, which takes a minute; benchmarks/gpu.sh has it too.
    """
    traced = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    torch._dynamo.reset()
    model, compiled = (make_tiny_model("bert", layers=2) for _ in range(2))
    compiled.compile_layers()
    graphs = []
    for lengths in ((9, 4, 30), (60, 80, 7, 7), (20,) * 30, (100, 50, 3), (2, 70)):
        tokens, offsets = random_texts(lengths)
        text_ids = np.arange(len(lengths))
        results = [
            embeddings_and_gradients(m, lambda m=m: m.embed_tokens(tokens, offsets, text_ids))  # noqa: B023
            for m in (model, compiled)
        ]
        torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-5)
        assert_same_gradients(results[1][1], results[0][1], 1e-3)
        graphs.append(compiled_graphs())
    assert graphs[0] > 0
    assert len(set(graphs[1:])) == 1

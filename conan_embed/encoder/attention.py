"""The one place that knows which device we are on: attention over a packed stream.

`transformers` lets a program register an attention function; the user's encoder stays unchanged. The stream's layout
(where each text begins) travels in a context variable, because not every encoder passes extra arguments down.

- CUDA since Ampere, 16-bit: `torch.nn.attention.varlen.varlen_attn` (torch 2.11 to 2.13), no padding anywhere. It
  knows no dropout and no soft-cap, and takes only some head sizes (`kernel_takes`).
- everything else: the tokens are copied into a few padded blocks of similar length, scaled-dot-product attention in
  float32 (on CPUs the bfloat16 kernel is the slower one), and copied back. Only attention sees that padding.

Shapes: T tokens, H heads, E head size.
"""

import contextlib
import functools
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch.nn.functional import dropout, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from conan_embed.encoder.packing import Packed, PaddedBlocks
from conan_embed.errors import UserError

PACKED_ATTENTION = "conan_packed"

MAX_HEAD_SIZE = 256  # of the variable-length kernel; and it must be a multiple of 8

_stream: ContextVar[Packed | None] = ContextVar("packed stream", default=None)


@contextlib.contextmanager
def packed_stream(packed: Packed) -> Iterator[None]:
    """Make `packed` the layout that the attention function reads while the encoder runs."""
    token = _stream.set(packed)
    try:
        yield
    finally:
        _stream.reset(token)


@contextlib.contextmanager
def stock_attention(encoder: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Let the encoder attend as transformers does it ("eager", "sdpa"), one padded batch at a time."""
    encoder.set_attn_implementation(implementation)
    try:
        yield
    finally:
        encoder.set_attn_implementation(PACKED_ATTENTION)


PackedLayout = tuple[torch.Tensor, int]


def layout_arguments(packed: Packed) -> PackedLayout | None:
    """Return offsets and longest text as compiled code takes them, or None where no compiled kernel serves.

    The padded blocks of other devices have other shapes in every chunk and stay outside of compiled code.
    """
    if not has_kernel(packed.device):
        return None
    offsets = packed.offsets_N1
    torch._dynamo.maybe_mark_dynamic(offsets, 0)
    return offsets, packed.max_length


@functools.cache
def has_kernel(device: torch.device) -> bool:
    """Tell whether the variable-length kernel runs on this device: a GPU of compute capability 8.0 (Ampere) or more."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def kernel_takes(query: torch.Tensor, dropout: float, softcap: float | None = None) -> bool:
    """Tell whether the variable-length kernel, where there is one, serves these queries ([1, H, T, E])."""
    size = query.shape[-1]
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and dropout == 0.0
        and softcap is None
        and size % 8 == 0
        and size <= MAX_HEAD_SIZE
    )


class _Rearrange(torch.autograd.Function):
    """`source.index_select(0, index)` whose gradient is a gather too.

    Every real token has exactly one position on both sides, so the gradient of a copy is the copy back. (The stock
    gradient of index_select is a scattered addition, serial on CPUs and unordered on GPUs.) A position that holds
    padding gets no gradient: the attention mask made its key weight zero, and its query output is dropped.
    """

    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, index: torch.Tensor, back: torch.Tensor, to_blocks: bool
    ) -> torch.Tensor:
        ctx.save_for_backward(back)
        ctx.num_positions = source.shape[0]
        ctx.to_blocks = to_blocks
        return source.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        (gradient,) = gradients
        if ctx.to_blocks:
            return gradient.index_select(0, back), None, None, None
        padded = gradient.new_zeros(ctx.num_positions, *gradient.shape[1:])
        padded.index_copy_(0, back, gradient)
        return padded, None, None, None


class _Settings(NamedTuple):
    """What an attention layer asks for beside queries, keys and values.

    Attributes:
        reach: a token sees the tokens at most this many positions away; None for all.
        softcap: scores s become softcap * tanh(s / softcap) before the softmax; None for scores as they are.
    """

    scaling: float | None
    dropout: float
    causal: bool
    reach: int | None
    softcap: float | None = None


# Keyword arguments that some encoders pass down and that change no number here.
_IGNORED = frozenset(
    {
        *("position_ids", "cache_position", "past_key_values", "use_cache", "deterministic", "packed_layout"),
        *("output_attentions", "output_hidden_states", "return_dict", "num_items_in_batch"),
        *("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "indices", "max_seqlen"),
    }
)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    packed_layout: PackedLayout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each text of the stream with itself, in the signature of `transformers.AttentionInterface`.

    Args:
        query, key, value: [1, H, T, E] (key and value may have fewer heads).
        sliding_window: transformers' value: a token sees those nearer than this many positions, on both sides.
        softcap: scores s become softcap * tanh(s / softcap), as in Gemma 2.
        packed_layout: see `layout_arguments`; only given while compiled.

    Returns:
        [1, T, H, E] in the dtype of `query`, and None for the weights.

    Raises:
        UserError: the layer asks for something else that changes the result (sinks, a mask of its own).
    """
    _check_arguments(module, attention_mask, others)
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    reach = None if sliding_window is None else sliding_window - 1 + _counts_both_ends(module)
    settings = _Settings(scaling, dropout, causal, reach, softcap)
    if packed_layout is not None and kernel_takes(query, dropout, softcap):
        output = _variable_length_kernel(packed_layout, query, key, value, settings)
    else:
        output = _by_stream(query, key, value, settings)
    return output.unsqueeze(0), None


def _counts_both_ends(module: torch.nn.Module) -> bool:
    """A decoder made bidirectional (`is_causal: false`) sees one position further: transformers' mask says <=."""
    return not getattr(getattr(module, "config", None), "is_causal", True)


def _check_arguments(
    module: torch.nn.Module, attention_mask: torch.Tensor | None, others: dict[str, Any]
) -> None:
    if attention_mask is not None:
        others = {**others, "attention_mask": attention_mask}
    for name, argument in others.items():
        if argument is not None and argument is not False and name not in _IGNORED:
            raise UserError(
                f"model.base: {type(module).__name__} passes {name!r} to its attention function, which packed "
                "attention does not implement; expected attention with a scale, a window, a soft-cap, causal or not."
            )


@torch.compiler.disable
def _by_stream(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: _Settings
) -> torch.Tensor:
    packed = _stream.get()
    assert packed is not None, "packed attention runs only inside packed_stream()"
    if has_kernel(query.device) and kernel_takes(query, settings.dropout, settings.softcap):
        layout = packed.offsets_N1, packed.max_length
        return _variable_length_kernel(layout, query, key, value, settings)
    return _padded_blocks(packed, query, key, value, settings)


def _variable_length_kernel(
    layout: PackedLayout, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: _Settings
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    left = -1 if settings.reach is None else settings.reach
    offsets, longest = layout
    query_THE, key_THE, value_THE = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    if key.shape[1] != query.shape[1]:
        # torch 2.11's kernel wants equal heads; 2.12 has an argument for it.
        times = query.shape[1] // key.shape[1]
        key_THE, value_THE = (tensor.repeat_interleave(times, dim=1) for tensor in (key_THE, value_THE))
    output = varlen_attn(
        query_THE,
        key_THE,
        value_THE,
        offsets,
        offsets,
        longest,
        longest,
        scale=settings.scaling,
        window_size=(left, 0 if settings.causal else left),
    )
    assert isinstance(output, torch.Tensor)  # a pair only where auxiliary outputs are asked for
    return output


def _padded_blocks(
    packed: Packed, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, settings: _Settings
) -> torch.Tensor:
    blocks, dtype = packed.blocks, query.dtype
    compute = dtype if dtype == torch.float64 else torch.float32
    whole = blocks.to_blocks_P.shape[0] == query.shape[2]  # no padding at all: the stream is its own blocks

    def split(tensor: torch.Tensor) -> list[torch.Tensor]:
        rows = tensor.squeeze(0).transpose(0, 1)  # [T, heads, E]; moved in 16 bits, widened block by block
        if not whole:
            rows = _Rearrange.apply(rows, blocks.to_blocks_P, blocks.from_blocks_T, True)
        parts = rows.split([texts * length for texts, length in blocks.shapes])
        return [
            part.to(compute).view(*shape, *part.shape[1:]).transpose(1, 2)
            for part, shape in zip(parts, blocks.shapes, strict=True)
        ]

    outputs = []
    # Autocast would cast the operands back to bfloat16.
    with torch.autocast(query.device.type, enabled=False):
        for number, (q, k, v) in enumerate(zip(split(query), split(key), split(value), strict=True)):
            bias = _bias(blocks, number, settings, compute, query.device)
            if k.shape[1] != q.shape[1]:
                k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
            output = _block_attention(q, k, v, bias, settings)
            outputs.append(output.transpose(1, 2).to(dtype).flatten(0, 1))  # [texts * length, H, E]
        rows = torch.cat(outputs)
        if not whole:
            rows = _Rearrange.apply(rows, blocks.from_blocks_T, blocks.from_blocks_T, False)
    return rows


def _block_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    settings: _Settings,
) -> torch.Tensor:
    if settings.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=settings.dropout, scale=settings.scaling
        )
    scale = query.shape[-1] ** -0.5 if settings.scaling is None else settings.scaling
    score = settings.softcap * torch.tanh(query @ key.transpose(2, 3) * scale / settings.softcap)
    weight = (score if bias is None else score + bias).softmax(dim=3)
    return dropout(weight, settings.dropout) @ value


def _bias(
    blocks: PaddedBlocks, number: int, settings: _Settings, dtype: torch.dtype, device: torch.device
) -> torch.Tensor | None:
    """The additive mask of one block, [texts or 1, 1, length or 1, length], or None where every key counts."""
    length = blocks.shapes[number][1]
    padding = blocks.key_is_padding[number]
    hidden = None if padding is None else padding[:, None, None, :]
    causal, reach = settings.causal, settings.reach
    if causal or (reach is not None and reach < length - 1):
        position = torch.arange(length, device=device)
        ahead = position[None, :] - position[:, None]
        far = ahead.abs() > reach if reach is not None else torch.zeros_like(ahead, dtype=torch.bool)
        if causal:
            far = far | (ahead > 0)
        hidden = far if hidden is None else hidden | far
        # A padding query far from every real key would see nothing and turn into NaN; let it see itself.
        hidden = hidden & (ahead != 0)
    if hidden is None:
        return None
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))


# Without a mask function of that name transformers makes no mask (and a GPU need not wait for one): the stream has no
# padding, and the attention function knows the borders.
AttentionInterface.register(PACKED_ATTENTION, packed_attention)

"""Encoder, pooling and dense layers over packed tokens: the part of a model that knows nothing of texts.

    tokens -> encoder -> pooling (cls, mean or last token) -> dense layers -> every prefix is an embedding

All texts of a chunk go through the encoder in one padding-free stream (packing.py), on CPUs with weights that are
prepacked once (prepacked_weights.py). `EmbeddingModel` in model.py adds tokenizer, prompts, loading and saving.

Shapes: N texts, T tokens, H hidden width, D embedding width.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature

import numpy as np
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from conan_embed import malloc
from conan_embed.device import to_device
from conan_embed.encoder.attention import PACKED_ATTENTION, layout_arguments, packed_stream
from conan_embed.encoder.dense import Dense
from conan_embed.encoder.encode import TOKEN_BUDGET
from conan_embed.encoder.formats import POOLINGS
from conan_embed.encoder.packing import PADDED_TO, Chunk, Packed, pack, pad_stream
from conan_embed.encoder.positions import padding_index, position_ids, usable_positions
from conan_embed.encoder.prepacked_weights import prepacked_weights
from conan_embed.errors import UserError
from conan_embed.texts.ragged import expand_ranges

_CPU_TOKEN_BUDGET = 4096
"""The most when a CPU embeds without gradient. The C library maps buffers above 32 MB anew each time, and the kernel
zeroes them page by page: at 16,384 tokens a copy costs 20 times as much per token as at 4,096 (docs/log.md).
Training keeps its activations anyway."""


class PackedEncoder(nn.Module):
    """Embed packed tokens.

    Args:
        encoder: any Hugging Face encoder that takes its attention from `AttentionInterface`. It is switched to packed
            attention, and loses a pooler: that is no part of a text embedding, and would get no gradient.
        pooling: "cls", "mean" or "last".
        dense_layers: trained layers between pooling and embedding.
    """

    def __init__(self, encoder: PreTrainedModel, pooling: str, dense_layers: Sequence[Dense]) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"model.pooling: {pooling!r} is unknown; expected one of {', '.join(POOLINGS)}.")
        self.encoder = encoder
        self.pooling = pooling
        self.hidden: int = encoder.config.hidden_size
        self.inner_dense = nn.ModuleList(dense_layers[:-1])
        self.dense = dense_layers[-1] if dense_layers else None
        self.width = self.hidden if self.dense is None else self.dense.out_features
        self.compiled = False
        self._padding_index = padding_index(encoder)
        self.unused_weights = _use_packed_attention(encoder)
        # A decoder would keep keys and values of every chunk.
        self._no_cache = {"use_cache": False} if "use_cache" in signature(encoder.forward).parameters else {}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.parameters()).dtype

    # ------------------------------------------------------------------------------------------------ forward

    def forward(self, packed: Packed) -> torch.Tensor:
        """Embed one packed chunk.

        Returns:
            float32 (float64 for a float64 model) [N, D], not normalised.
        """
        return self.project(self._pool(self.hidden_states(packed), packed))

    def hidden_states(self, packed: Packed) -> torch.Tensor:
        """Return the encoder's last hidden states [T, H] of a packed chunk."""
        # Compiled code cannot read the context variable: there the layout travels as arguments.
        layout = {"packed_layout": layout_arguments(packed)} if self.compiled else {}
        with packed_stream(packed):
            output = self.encoder(
                input_ids=packed.token_ids_T[None],
                position_ids=position_ids(packed, self._padding_index)[None],
                **self._no_cache,
                **layout,
            )
        return output.last_hidden_state[0]

    def _pool(self, hidden_TH: torch.Tensor, packed: Packed) -> torch.Tensor:
        if hidden_TH.dtype != torch.float64:
            hidden_TH = hidden_TH.float()
        offsets = packed.tensor("offsets64", packed.offsets)
        if self.pooling == "last":
            return hidden_TH.index_select(0, offsets[1:] - 1)
        if packed.prompt_lengths_N is not None:
            hidden_TH, offsets = _without_prompts(hidden_TH, packed, packed.prompt_lengths_N)
        if self.pooling == "cls":
            return hidden_TH.index_select(0, offsets[:-1])
        return torch.segment_reduce(hidden_TH, "mean", offsets=offsets)

    def dense_layers(self) -> list[Dense]:
        """Return the layers between pooling and embedding, in order."""
        return [] if self.dense is None else [*self.inner_dense, self.dense]

    def project(self, pooled_NH: torch.Tensor) -> torch.Tensor:
        """Return the embeddings [N, D] of pooled hidden states."""
        embedding_ND = pooled_NH
        for layer in self.dense_layers():
            embedding_ND = layer(embedding_ND.to(layer.weight.dtype))
        return embedding_ND.to(pooled_NH.dtype)

    # ------------------------------------------------------------------------------------- from tokens, in chunks

    def chunk_budget(self, token_budget: int) -> int:
        """Return the most tokens per chunk on this device where `token_budget` was asked for."""
        return min(token_budget, _CPU_TOKEN_BUDGET) if self._only_encodes_on_cpu() else token_budget

    def _only_encodes_on_cpu(self) -> bool:
        return self.device.type == "cpu" and not torch.is_grad_enabled()

    def embed_tokens(
        self,
        tokens: np.ndarray,
        offsets: np.ndarray,
        text_ids: np.ndarray,
        *,
        token_budget: int = TOKEN_BUDGET,
        activation_checkpointing: bool = False,
        num_passes: int = 1,
        on_chunk: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Embed tokenised texts, in chunks of at most `token_budget` tokens.

        Args:
            tokens: all tokens of the store, [all tokens].
            offsets: int64 [texts + 1], where each text begins in `tokens`.
            text_ids: int64 [N], the texts to embed.
            activation_checkpointing: keep only the chunks' inputs and recompute their activations in the backward
                pass, one whole chunk at a time: the memory of one chunk instead of all, for about a third more time.
            num_passes: the least number of passes through the encoder. Processes with fewer chunks than others make up
                for it with passes over a single token, whose embedding is dropped, so that collectives line up.
            on_chunk: called with the number of texts after each chunk.

        Returns:
            float32 [N, D] in the order of `text_ids`, not normalised.
        """
        return self.embed_chunks(
            self.pack(tokens, offsets, text_ids, token_budget=token_budget),
            activation_checkpointing=activation_checkpointing,
            num_passes=num_passes,
            on_chunk=on_chunk,
        )

    def pack(
        self, tokens: np.ndarray, offsets: np.ndarray, text_ids: np.ndarray, *, token_budget: int
    ) -> Iterator[Chunk]:
        """Yield the texts as chunks on the model's device; a list of them can be made while a GPU still works."""
        return pack(
            tokens,
            offsets,
            text_ids,
            token_budget=self.chunk_budget(token_budget),
            device=self.device,
            pad=self._pads_stream,
        )

    def embed_chunks(
        self,
        chunks: Iterable[Chunk],
        *,
        activation_checkpointing: bool = False,
        num_passes: int = 1,
        on_chunk: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Embed the chunks of `pack`; arguments and result as in `embed_tokens`."""
        recompute = activation_checkpointing and torch.is_grad_enabled()
        embeddings, rows = [], [np.empty(0, np.int64)]
        with contextlib.ExitStack() as stack:
            for number, chunk in enumerate(chunks):
                self._speed_up_encoding(stack, number)
                if number and torch.is_grad_enabled():
                    # Else all chunks share one bfloat16 copy of each weight, and the gradients of many chunks are
                    # added up in bfloat16 on their way to the float32 weight.
                    torch.clear_autocast_cache()
                embeddings.append(self._embed(chunk.packed, recompute)[: len(chunk.rows)])
                rows.append(chunk.rows)
                if on_chunk is not None:
                    on_chunk(len(chunk.rows))
        while len(embeddings) < num_passes:
            embeddings.append(self._embed(self._one_token(), recompute)[:0])
        order = to_device(np.argsort(np.concatenate(rows)), self.device)
        return torch.cat(embeddings).index_select(0, order)

    def _speed_up_encoding(self, stack: contextlib.ExitStack, chunk_number: int) -> None:
        if not self._only_encodes_on_cpu():
            return
        if chunk_number == 0:
            stack.enter_context(malloc.keep_buffers())
        # For a single chunk, as in a search, prepacking would cost more than it saves. Under a compiled layer a linear
        # layer with another forward pass is other code: it would be compiled anew, for every layer and every call.
        if chunk_number == 1 and not self.compiled:
            stack.enter_context(prepacked_weights(self.encoder))

    def _embed(self, packed: Packed, recompute: bool) -> torch.Tensor:
        if not recompute:
            return self(packed)
        # The tokens stand among the arguments for their device's sake: there checkpoint() notes the state of the random
        # numbers, and dropout draws the same masks again. It does not look into `packed`.
        return checkpoint(lambda _, packed: self(packed), packed.token_ids_T, packed, use_reentrant=False)

    def _one_token(self) -> Packed:
        tokens, lengths = np.zeros(1, np.int64), np.ones(1, np.int64)
        if self._pads_stream:
            tokens, lengths = pad_stream(tokens, lengths)
        return Packed(to_device(tokens, self.device), lengths)

    # ------------------------------------------------------------------------------------------------ compiling

    @property
    def _pads_stream(self) -> bool:
        wanted = self.compiled or self.device.type == "cuda"
        return wanted and usable_positions(self.encoder) >= PADDED_TO

    def compile_layers(self) -> None:
        """Let torch.compile fuse what stands between the matrix products of a layer.

        Layer by layer: equal layers share their code, so this takes seconds where a whole encoder takes minutes, and
        it combines with sharding. The number of tokens is a variable of the compiled code.
        """
        for layer in encoder_layers(self.encoder):
            layer.compile(dynamic=True)
        self.compiled = True


def compiled_graphs() -> int:
    """Return how many graphs torch.compile has made in this process: more than a handful is a recompilation storm."""
    return int(counters["stats"]["unique_graphs"])


def encoder_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the encoder's stack of layers: its largest list of modules."""
    stacks = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    return list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()), default=[]))


def _without_prompts(
    hidden_TH: torch.Tensor, packed: Packed, prompt_N: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the hidden states of the texts' own tokens, and their offsets."""
    lengths_N = packed.lengths_N - prompt_N
    own = packed.tensor("own tokens", expand_ranges(packed.offsets[:-1] + prompt_N, lengths_N))
    offsets = packed.tensor("own offsets", np.concatenate([[0], np.cumsum(lengths_N)]))
    return hidden_TH.index_select(0, own), offsets


def _use_packed_attention(encoder: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Switch the encoder to packed attention and take off its pooler; return the pooler's weights."""
    pooler = getattr(encoder, "pooler", None)
    left_out = (
        {} if pooler is None else {f"pooler.{name}": w.clone() for name, w in pooler.state_dict().items()}
    )
    if pooler is not None:
        encoder.register_module("pooler", None)
    encoder.set_attn_implementation(PACKED_ATTENTION)
    return left_out

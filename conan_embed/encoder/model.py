"""The embedding model: a Hugging Face encoder, pooling, a dense layer, Matryoshka prefixes.

    tokens -> encoder -> pooling (cls, mean or last token) -> dense 1024 -> 1792 -> every prefix is an embedding

as in section 1 of the paper's facts: the dense layer has a bias and no activation, and a prefix of width w, normalised
anew, is a usable embedding. The encoder is the user's own, unchanged; all texts of a chunk go through it in one
padding-free stream (packing.py). Embeddings leave `forward` without normalisation: each Matryoshka width has a norm of
its own.

    loading.py  folders and hub names to models and back        encode.py  texts to embeddings

Shapes: N texts, T tokens, D embedding width.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conan_embed import malloc
from conan_embed.device import to_device
from conan_embed.encoder import encode, loading
from conan_embed.encoder import tokenizer as tokenizer_module
from conan_embed.encoder.adapter import Adapter
from conan_embed.encoder.attention import PACKED_ATTENTION, layout_arguments, packed_stream
from conan_embed.encoder.decoders import apply_direction
from conan_embed.encoder.dense import Dense
from conan_embed.encoder.encode import TOKEN_BUDGET
from conan_embed.encoder.formats import POOLINGS, check_widths
from conan_embed.encoder.packing import PADDED_TO, Chunk, Packed, mark_prompts, pack, pad_stream
from conan_embed.encoder.positions import num_token_rows, padding_index, position_ids, usable_positions
from conan_embed.encoder.prepacked_weights import prepacked_weights
from conan_embed.encoder.prompts import Prompts, check_prompts, fill
from conan_embed.encoder.self_test import check_packing, check_supported
from conan_embed.errors import UserError
from conan_embed.texts.ragged import expand_ranges

_CPU_TOKEN_BUDGET = 4096
"""The most when a CPU embeds without gradient. The C library maps buffers above 32 MB anew each time, and the kernel
zeroes them page by page: at 16,384 tokens a copy costs 20 times as much per token as at 4,096 (docs/log.md).
Training keeps its activations anyway."""


class EmbeddingModel(nn.Module):
    """Encoder, pooling and dense layer, with the tokenizer and the prompts that belong to them.

    Args:
        encoder: any Hugging Face encoder that takes its attention from `AttentionInterface`.
        tokenizer: its fast tokenizer.
        pooling: "cls", "mean" or "last".
        include_prompt: pool the tokens of a prompt with those of its text.
        dense_width: output features of a new dense layer; None for no new one.
        dense_layers: trained layers between pooling and embedding, instead of a new one.
        widths: Matryoshka prefixes; the full width is always one of them.
        prompts: text put before the texts of each role ("query", "passage", "sts"); `{instruction}` in it stands for
            an instruction.
        instruction: of texts that come with none of their own.
        max_length: tokens per text, special tokens included; longer texts are cut.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        include_prompt: bool = True,
        dense_width: int | None = None,
        dense_layers: Sequence[Dense] = (),
        widths: Sequence[int] = (),
        prompts: dict[str, str] | None = None,
        instruction: str | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"model.pooling: {pooling!r} is unknown; expected one of {', '.join(POOLINGS)}.")
        check_prompts(prompts or {})
        check_supported(encoder)
        apply_direction(encoder)
        tokenizer_module.check_tokenizer(tokenizer, encoder)
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.include_prompt = include_prompt
        self._prompt_lengths: dict[str, int] = {}
        self.hidden: int = encoder.config.hidden_size
        if not dense_layers and dense_width is not None:
            dense_layers = [Dense(self.hidden, dense_width)]
        self.inner_dense = nn.ModuleList(dense_layers[:-1])
        self.dense = dense_layers[-1] if dense_layers else None
        self.width = self.hidden if self.dense is None else self.dense.out_features
        self.widths = check_widths(widths, self.width)
        self.vocabulary_files = tokenizer_module.vocabulary_files(tokenizer)
        self.lowercase = False  # asked for by the folder, beside its tokenizer
        self.changed_tokenizer = False  # in a way that a class of its own would undo when it is loaded
        self.adapter: Adapter | None = None
        self.original_dropout: dict[str, float] = {}
        self.named_prompts = Prompts()
        self.compiled = False
        self.templates = {"query": "", "passage": "", "sts": "", **(prompts or {})}
        self.instruction = instruction
        self.prompts = fill(self.templates, instruction)
        self.dataset_prompts: dict[
            str, dict[str, str]
        ] = {}  # of data sets that have their own, by name and role
        positions = usable_positions(encoder)
        self.max_length = _check_length(max_length or min(positions, 512), positions)
        self._padding_index = padding_index(encoder)
        self.unused_weights = _use_packed_attention(encoder)
        check_packing(self)

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
        # For a single chunk, as in a search, prepacking would cost more than it saves.
        if chunk_number == 1:
            stack.enter_context(prepacked_weights(self.encoder))

    def _embed(self, packed: Packed, recompute: bool) -> torch.Tensor:
        return checkpoint(self, packed, use_reentrant=False) if recompute else self(packed)

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

    # --------------------------------------------------------------------------------------------- from texts

    def tokenize(self, texts: Sequence[str], *, prompt: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise texts, special tokens included, cut to `max_length`.

        Args:
            prompt: that all texts begin with. None: whichever of the model's prompts a text begins with. It matters
                only where the tokens of prompts are not pooled.

        Returns:
            int32 [T] all tokens end to end, and int64 [N + 1] where each text begins. Tokens that are not pooled are
            marked (`packing.mark_prompts`).

        Raises:
            UserError: a text with a token that the encoder has no row for.
        """
        num_rows = num_token_rows(self.encoder)
        tokens, offsets = tokenizer_module.tokenize(self.tokenizer, texts, self.max_length, num_rows)
        if self.include_prompt or not len(texts):
            return tokens, offsets
        roles = [self.prompts, *self.dataset_prompts.values()]
        known = sorted({text for prompts in roles for text in prompts.values()} - {""}, key=len, reverse=True)
        prompts = (
            [next((p for p in known if text.startswith(p)), "") for text in texts]
            if prompt is None
            else [prompt] * len(texts)
        )
        return mark_prompts(tokens, offsets, np.array([self._prompt_length(p) for p in prompts])), offsets

    def _prompt_length(self, prompt: str) -> int:
        """Return how many tokens come from a prompt, as sentence-transformers counts them: without a special last."""
        if prompt not in self._prompt_lengths:
            ids = self.tokenizer(prompt)["input_ids"] if prompt else []
            count = len(ids) - (bool(ids) and ids[-1] in self.tokenizer.all_special_ids)
            if count >= self.max_length - 1:
                raise UserError(
                    f"prompt {prompt[:80]!r}: has {count} tokens and the model reads {self.max_length}; expected room "
                    "for a text after it."
                )
            self._prompt_lengths[prompt] = count
        return self._prompt_lengths[prompt]

    def count_tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Return int64 [N], how many tokens each text has, special tokens included, before it is cut."""
        return tokenizer_module.count_tokens(self.tokenizer, texts)

    def tokenizer_text(self) -> str:
        """Return everything that decides a text's tokens except the length: for keys of caches and fingerprints."""
        text = tokenizer_module.tokenizer_text(self.tokenizer, self.vocabulary_files)
        return (
            text if self.include_prompt else text + json.dumps(["not pooled", sorted(self.prompts.values())])
        )

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        widths: Sequence[int] | None = None,
        precision: str = "bfloat16",
        token_budget: int = TOKEN_BUDGET,
        show_progress: bool = False,
    ) -> Any:
        """Return the embeddings of `texts`.

        Args:
            prompt: put before every text (for instance `model.prompts["query"]`).
            widths: return one array per Matryoshka width instead of the full width alone.
            precision: "bfloat16" (matrix products only) or "float32".

        Returns:
            float32 [N, D] with rows of length 1; with `widths`, a dict {width: [N, width]}.
        """
        return encode.encode(
            self,
            texts,
            prompt=prompt,
            widths=widths,
            precision=precision,
            token_budget=token_budget,
            show_progress=show_progress,
        )

    def encode_query(
        self, texts: Sequence[str], *, width: int | None = None, precision: str = "bfloat16"
    ) -> np.ndarray:
        """Return the embeddings of queries, the model's query prompt put before each.

        Args:
            texts: N queries.
            width: a Matryoshka prefix, 1 to the model's own width; None for the full width.
            precision: "bfloat16" (matrix products only) or "float32".

        Returns:
            float32 [N, width] with rows of length 1.

        Raises:
            UserError: a width that the model does not have.

        Example:
            >>> query_QD = model.encode_query(["how do I reset it?"])
            >>> document_CD = model.encode_document(["Hold the button for ten seconds.", "It ships in blue."])
            >>> score_QC = query_QD @ document_CD.T  # cosines
        """
        return self._encode_role("query", texts, width, precision)

    def encode_document(
        self, texts: Sequence[str], *, width: int | None = None, precision: str = "bfloat16"
    ) -> np.ndarray:
        """Return the embeddings of documents, the model's passage prompt put before each.

        Arguments and result as in `encode_query`.

        Example:
            >>> model.encode_document(["Hold the button for ten seconds."], width=128).shape
            (1, 128)
        """
        return self._encode_role("passage", texts, width, precision)

    def _encode_role(self, role: str, texts: Sequence[str], width: int | None, precision: str) -> np.ndarray:
        width = width or self.width
        return self.encode(texts, prompt=self.prompts[role], widths=[width], precision=precision)[width]

    # ---------------------------------------------------------------------------------------------- load, save

    @classmethod
    def load(
        cls,
        base: str | Path,
        *,
        pooling: str | None = None,
        attention: str | None = None,
        end_token: bool | None = None,
        include_prompt: bool | None = None,
        dense_width: int | None = None,
        widths: Sequence[int] | None = None,
        prompts: dict[str, str] | None = None,
        instruction: str | None = None,
        max_length: int | None = None,
        dropout: float | None = 0.0,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a model from a local folder (sentence-transformers or transformers layout) or by its hub name.

        Settings that are not given come from the model: pooling (else mean), dense layer, prompts, length, widths.

        Args:
            base: a folder, or the name of a model on the Hugging Face hub.
            attention: "causal" or "bidirectional", for decoders; None keeps the model's own.
            end_token: let the tokenizer end every text with its end token; None: where a model is newly given
                last-token pooling and its tokenizer adds none.
            include_prompt: pool the tokens of a prompt with those of its text; None as the folder says.
            dense_width: output features of the dense layer; a layer of that shape in the folder keeps its weights.
            dropout: set on every dropout of the encoder; None leaves the model's own. On CPUs attention dropout costs
                a factor of almost three.
            trust_remote_code: run the Python code that comes with the model.

        Raises:
            UserError: no such model, pickled or broken weights, or settings that do not fit it.

        Example:
            >>> model = EmbeddingModel.load("sentence-transformers/all-MiniLM-L6-v2", widths=[384, 128])
        """
        return loading.load(
            cls,
            base,
            pooling=pooling,
            attention=attention,
            end_token=end_token,
            include_prompt=include_prompt,
            dense_width=dense_width,
            widths=widths,
            prompts=prompts,
            instruction=instruction,
            max_length=max_length,
            dropout=dropout,
            trust_remote_code=trust_remote_code,
        )

    def save(
        self, folder: str | Path, *, details: dict[str, Any] | None = None, card: Path | None = None
    ) -> None:
        """Write a folder that sentence-transformers (5 and 6) and text-embeddings-inference load, aside and renamed.

        Args:
            details: noted in `conan_embed.json`; the model card shows its `training` and `results`.
            card: an earlier README.md of the model; what people wrote there is kept.
        """
        loading.save(self, Path(folder), details=details, card=card)


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


def _check_length(max_length: int, positions: int) -> int:
    if not 3 <= max_length <= positions:
        raise UserError(
            f"model.max_length: {max_length} does not fit the model; expected 3 to {positions} tokens."
        )
    return max_length


def _use_packed_attention(encoder: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Switch the encoder to packed attention; return the weights of what an embedding leaves out.

    BERT's pooler is no part of a text embedding, and its weights would get no gradient.
    """
    pooler = getattr(encoder, "pooler", None)
    left_out = (
        {} if pooler is None else {f"pooler.{name}": w.clone() for name, w in pooler.state_dict().items()}
    )
    if pooler is not None:
        encoder.register_module("pooler", None)
    encoder.set_attn_implementation(PACKED_ATTENTION)
    return left_out

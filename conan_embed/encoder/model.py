"""The embedding model: a Hugging Face encoder, pooling, one dense layer, Matryoshka prefixes.

    tokens -> encoder -> pooling (cls, mean or last token) -> dense 1024 -> 1792 -> every prefix is an embedding

as in section 1 of the paper's facts: the dense layer has a bias and no activation, and a prefix of width w, normalised
anew, is a usable embedding. The encoder is the user's own, unchanged; all texts of a chunk go through it in one
padding-free stream (packing.py). What comes out is *not* normalised, because each Matryoshka width needs its own norm.

Shapes: N texts, T tokens, D embedding width.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from conan_embed import malloc
from conan_embed.console import progress_bar
from conan_embed.device import to_device
from conan_embed.encoder.attention import PACKED_ATTENTION, layout_arguments, packed_stream
from conan_embed.encoder.card import Interface, write_card
from conan_embed.encoder.formats import (
    POOLINGS,
    Layout,
    check_prompts,
    make_config_portable,
    make_tokenizer_portable,
    read_layout,
    write_layout,
)
from conan_embed.encoder.packing import PADDED_TO, Chunk, Packed, filled_up, pack
from conan_embed.encoder.prepacked_weights import prepacked_weights
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, read_json, write_json

TOKEN_BUDGET = 16_384
"""Tokens of one packed chunk: large enough for full-speed matrix products, small enough for memory."""

_CPU_TOKEN_BUDGET = 4096
"""The most where a CPU embeds without gradient. Buffers above 32 MB are mapped anew by the C library each time, and the
kernel zeroes them page by page: at 16,384 tokens a copy costs 20 times as much per token as at 4,096 (docs/log.md).
In training the activations are kept anyway."""

_TOKENIZE_BATCH = 4096


class EmbeddingModel(nn.Module):
    """Encoder, pooling and dense layer, with the tokenizer and the prompts that belong to them.

    Args:
        encoder: any Hugging Face encoder that takes its attention from `AttentionInterface`.
        tokenizer: its fast tokenizer.
        pooling: "cls", "mean" or "last".
        dense_width: output features of the dense layer; None for no dense layer.
        widths: Matryoshka prefixes; the full width is always one of them.
        prompts: text put before the texts of each role ("query", "passage", "sts").
        max_length: tokens per text, special tokens included; longer texts are cut.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pooling: str = "mean",
        dense_width: int | None = None,
        widths: Sequence[int] = (),
        prompts: dict[str, str] | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"model.pooling: {pooling!r} is unknown; expected one of {', '.join(POOLINGS)}.")
        check_prompts(prompts or {})
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.hidden: int = encoder.config.hidden_size
        self.dense = None if dense_width is None else nn.Linear(self.hidden, dense_width)
        self.width = dense_width or self.hidden
        self.widths = _checked_widths(widths, self.width)
        self.own_dropout: dict[str, float] = {}
        self.compiled = False
        self.prompts = {"query": "", "passage": "", "sts": "", **(prompts or {})}
        positions = _usable_positions(encoder.config)
        self.max_length = _checked_length(max_length or min(positions, 512), positions)
        self._first_position = _first_position(encoder)
        _use_packed_attention(encoder)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # ------------------------------------------------------------------------------------------------ forward

    def forward(self, packed: Packed) -> torch.Tensor:
        """Embed one packed chunk.

        Returns:
            float32 (float64 for a float64 model) [N, D], not normalised.
        """
        # Compiled code cannot read the context variable: there the layout travels as arguments.
        layout = {"packed_layout": layout_arguments(packed)} if self.compiled else {}
        with packed_stream(packed):
            output = self.encoder(
                input_ids=packed.token_ids_T[None],
                position_ids=packed.position_ids_T[None] + self._first_position,
                **layout,
            )
        pooled = self._pool(output.last_hidden_state[0], packed)
        return (
            pooled if self.dense is None else self.dense(pooled.to(self.dense.weight.dtype)).to(pooled.dtype)
        )

    def _pool(self, hidden_TD: torch.Tensor, packed: Packed) -> torch.Tensor:
        if hidden_TD.dtype != torch.float64:
            hidden_TD = hidden_TD.float()
        offsets = packed.tensor("offsets64", packed.offsets)
        if self.pooling == "cls":
            return hidden_TD.index_select(0, offsets[:-1])
        if self.pooling == "last":
            return hidden_TD.index_select(0, offsets[1:] - 1)
        return torch.segment_reduce(hidden_TD, "mean", offsets=offsets)

    def chunk_budget(self, token_budget: int) -> int:
        """Return the most tokens of a chunk where `token_budget` was asked for, on this device."""
        slow = self.device.type == "cpu" and not torch.is_grad_enabled()
        return min(token_budget, _CPU_TOKEN_BUDGET) if slow else token_budget

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
        """Embed texts that are already tokenised, in chunks of at most `token_budget` tokens.

        Args:
            tokens: all tokens of the store, [all tokens].
            offsets: int64 [texts + 1], where each text begins in `tokens`.
            text_ids: int64 [N], the texts to embed.
            activation_checkpointing: keep only the chunks' inputs and compute their activations again in the backward
                pass (whole chunks at a time): memory of one chunk instead of all, about a third more time.
            num_passes: go through the encoder at least so often. What other processes have more of is made up for by a
                single token whose embedding is dropped: no text at all takes part in the gathering of embeddings and
                gradients too.
            on_chunk: called with the number of texts after each chunk.

        Returns:
            float32 [N, D] in the order of `text_ids`, not normalised.
        """
        chunks = self.pack(tokens, offsets, text_ids, token_budget=token_budget)
        return self.embed_chunks(
            chunks,
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
            fill_up=self._fills_up,
        )

    def embed_chunks(
        self,
        chunks: Iterable[Chunk],
        *,
        activation_checkpointing: bool = False,
        num_passes: int = 1,
        on_chunk: Callable[[int], None] | None = None,
    ) -> torch.Tensor:
        """Embed what `pack` gave; arguments and result as in `embed_tokens`."""

        def embedded(packed: Packed) -> torch.Tensor:
            if activation_checkpointing and torch.is_grad_enabled():
                return checkpoint(self, packed, use_reentrant=False)
            return self(packed)

        pieces, places = [], [np.empty(0, np.int64)]
        only_encoding = self.device.type == "cpu" and not torch.is_grad_enabled()
        with contextlib.ExitStack() as stack:
            if only_encoding:
                stack.enter_context(malloc.kept())
            for number, chunk in enumerate(chunks):
                # For a single chunk, as of a search, it would cost more than it saves.
                if only_encoding and number == 1:
                    stack.enter_context(prepacked_weights(self.encoder))
                pieces.append(embedded(chunk.packed)[: len(chunk.places)])
                places.append(chunk.places)
                if on_chunk is not None:
                    on_chunk(len(chunk.places))
        while len(pieces) < num_passes:
            nothing = np.zeros(1, np.int64), np.ones(1, np.int64)
            if self._fills_up:
                nothing = filled_up(*nothing)
            pieces.append(embedded(Packed(to_device(nothing[0], self.device), nothing[1]))[:0])
        back = to_device(np.argsort(np.concatenate(places)), self.device)
        return torch.cat(pieces).index_select(0, back)

    # ------------------------------------------------------------------------------------------------ compiling

    @property
    def _fills_up(self) -> bool:
        wanted = self.compiled or self.device.type == "cuda"
        return wanted and _usable_positions(self.encoder.config) >= PADDED_TO

    def compile_layers(self) -> None:
        """Let torch.compile fuse what stands between the matrix products of a layer.

        Layer by layer: all layers of a kind share their code, so this takes seconds where a whole encoder takes
        minutes, and it goes together with sharding. The number of tokens is a variable of the compiled code.
        """
        for layer in encoder_layers(self.encoder):
            layer.compile(dynamic=True)
        self.compiled = True

    # --------------------------------------------------------------------------------------------- from texts

    def tokenize(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenise texts, special tokens included, cut to `max_length`.

        Returns:
            int32 [T] all tokens end to end, and int64 [N + 1] where each text begins.
        """
        parts, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
        for start in range(0, len(texts), _TOKENIZE_BATCH):
            ids = self.tokenizer(
                list(texts[start : start + _TOKENIZE_BATCH]),
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            counts = np.fromiter(map(len, ids), np.int64, len(ids))
            parts.append(np.fromiter(chain.from_iterable(ids), np.int32, int(counts.sum())))
            lengths.append(counts)
        return np.concatenate(parts), np.cumsum(np.concatenate(lengths))

    def tokenizer_text(self) -> str:
        """Return all that decides a text's tokens but the length: for keys of caches and fingerprints.

        A fast tokenizer writes down how it was called last (truncation, padding) as well; that is left out.
        """
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        return json.dumps(state | {"truncation": None, "padding": None})

    @torch.inference_mode()
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
        was_training = self.training
        self.eval()
        tokens, offsets = self.tokenize([prompt + text for text in texts] if prompt else texts)
        with autocast(self.device, precision), contextlib.ExitStack() as stack:
            on_chunk = None
            if show_progress:
                progress = stack.enter_context(progress_bar(transient=True))
                task = progress.add_task("encoding", total=len(texts), note="")
                on_chunk = lambda count: progress.advance(task, count)  # noqa: E731
            embeddings = self.embed_tokens(
                tokens, offsets, np.arange(len(texts)), token_budget=token_budget, on_chunk=on_chunk
            )
        self.train(was_training)
        embeddings = embeddings.float()
        if widths is None:
            return nn.functional.normalize(embeddings, dim=1).cpu().numpy()
        _checked_widths(widths, self.width)
        return {w: nn.functional.normalize(embeddings[:, :w], dim=1).cpu().numpy() for w in widths}

    # ---------------------------------------------------------------------------------------------- load, save

    @classmethod
    def load(
        cls,
        base: str | Path,
        *,
        pooling: str | None = None,
        dense_width: int | None = None,
        widths: Sequence[int] | None = None,
        prompts: dict[str, str] | None = None,
        max_length: int | None = None,
        dropout: float | None = 0.0,
        trust_remote_code: bool = False,
    ) -> "EmbeddingModel":
        """Load a model from a local folder (sentence-transformers or transformers layout) or by its hub name.

        What is not given comes from the model: pooling (else mean), dense layer, prompts, max length, widths.

        Args:
            dense_width: output features of the dense layer; a layer of that shape in the folder keeps its weights.
            dropout: set on every dropout of the encoder; None leaves the model's own. On CPUs attention dropout costs
                a factor of almost three.

        Raises:
            UserError: no such model, pickled or broken weights, or settings that do not fit it.
        """
        layout = read_layout(_local_folder(str(base)))
        with _quiet_transformers():
            try:
                config = AutoConfig.from_pretrained(layout.transformer, trust_remote_code=trust_remote_code)
                own_dropout = _set_dropout(config, dropout)
                encoder, found = AutoModel.from_pretrained(
                    layout.transformer,
                    config=config,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=trust_remote_code,
                    output_loading_info=True,
                )
                tokenizer = AutoTokenizer.from_pretrained(
                    layout.transformer, trust_remote_code=trust_remote_code
                )
            except (
                Exception
            ) as error:  # the libraries raise many kinds; each means that this is no usable model
                reason = str(error).strip().split("\n")[0]
                raise UserError(f"{base}: the model cannot be loaded: {reason}") from error
        missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
        if missing:  # transformers would draw them at random
            raise UserError(
                f"{base}: the weights of {len(missing)} tensors are missing, for instance {missing[0]}."
            )
        if max_length is None and layout.max_length is not None:
            max_length = min(layout.max_length, _usable_positions(config))
        model = cls(
            encoder,
            tokenizer,
            pooling=pooling or layout.pooling or "mean",
            dense_width=dense_width or _rows(layout),
            widths=widths if widths is not None else layout.widths,
            prompts={**layout.prompts, **(prompts or {})},
            max_length=max_length,
        )
        model.own_dropout = own_dropout
        if layout.dense is not None and model.dense is not None:
            if model.dense.weight.shape == layout.dense["weight"].shape:
                nn.init.zeros_(model.dense.bias)  # a layer without a bias is one with zeros
                model.dense.load_state_dict(layout.dense, strict=False)
            else:
                raise UserError(
                    f"model.dense_width: {model.width} was asked for, but {base} has a dense layer of "
                    f"{_rows(layout)}; expected that width or no setting."
                )
        return model

    def save(
        self, folder: str | Path, *, details: dict[str, Any] | None = None, card: Path | None = None
    ) -> None:
        """Write a folder that sentence-transformers (5 and 6) and TEI load; written aside, then renamed.

        Args:
            details: noted in `conan_embed.json`, and on the model card what it says of training and results.
            card: an earlier README.md of the model, whose filled-in parts are kept.
        """
        with atomic_write(folder) as aside:
            aside.mkdir()
            with _quiet_transformers():
                # transformers notes the attention function in the config only in memory; nothing of ours is saved.
                self.encoder.save_pretrained(aside, safe_serialization=True)
                self.tokenizer.save_pretrained(aside)
            # Dropout was a setting of our run; who trains the model elsewhere finds the base model's own.
            write_json(aside / "config.json", {**read_json(aside / "config.json"), **self.own_dropout})
            make_config_portable(aside)
            make_tokenizer_portable(aside)
            write_layout(
                aside,
                hidden=self.hidden,
                pooling=self.pooling,
                dense=self.dense,
                prompts=self.prompts,
                max_length=self.max_length,
                widths=self.widths,
                details=details,
            )
            interface = Interface(self.prompts, self.width, self.widths, self.max_length)
            write_card(aside, interface, details or {}, earlier=card)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """Return the context in which matrix products run in `precision` ("float32" or "bfloat16")."""
    if precision not in ("float32", "bfloat16"):
        raise UserError(f"precision: {precision!r} is unknown; expected float32 or bfloat16.")
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def compiled_graphs() -> int:
    """Return how many graphs torch.compile has made in this process: more than a handful is a recompilation storm."""
    return int(counters["stats"]["unique_graphs"])


def encoder_layers(encoder: nn.Module) -> list[nn.Module]:
    """Return the encoder's stack of layers: its largest list of modules."""
    stacks = [module for module in encoder.modules() if isinstance(module, nn.ModuleList)]
    return list(max(stacks, key=lambda stack: sum(p.numel() for p in stack.parameters()), default=[]))


def _rows(layout: Layout) -> int | None:
    return None if layout.dense is None else layout.dense["weight"].shape[0]


def _checked_widths(widths: Sequence[int], width: int) -> tuple[int, ...]:
    for w in widths:
        if not 0 < w <= width:
            raise UserError(
                f"model.widths: {w} is outside the model's embedding width; expected 1 to {width}."
            )
    return tuple(sorted({*widths, width}, reverse=True))


def _checked_length(max_length: int, positions: int) -> int:
    if not 3 <= max_length <= positions:
        raise UserError(
            f"model.max_length: {max_length} does not fit the model; expected 3 to {positions} tokens."
        )
    return max_length


def _first_position(encoder: PreTrainedModel) -> int:
    """RoBERTa and its kin count positions from padding_idx + 1, all others from 0."""
    embeddings = getattr(encoder, "embeddings", None)
    creates = hasattr(embeddings, "create_position_ids_from_input_ids")
    return int(embeddings.padding_idx) + 1 if creates else 0  # type: ignore[union-attr]


def _usable_positions(config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or 1_000_000
    shifted = config.model_type in (
        "roberta",
        "xlm-roberta",
        "camembert",
        "mpnet",
        "xlm-roberta-xl",
        "data2vec-text",
    )
    return positions - (config.pad_token_id or 0) - 1 if shifted else positions


def _set_dropout(config: Any, value: float | None) -> dict[str, float]:
    """Set every dropout of the encoder to `value` (None: leave them); return the model's own, to be saved with it."""
    own = {
        name: setting
        for name, setting in vars(config).items()
        if "dropout" in name and isinstance(setting, float) and "classifier" not in name
    }
    for name, setting in own.items():
        setattr(config, name, setting if value is None else value)
    return own


def _use_packed_attention(encoder: PreTrainedModel) -> None:
    if getattr(encoder, "pooler", None) is not None:
        # BERT's pooler is no part of a text embedding, and its weights would get no gradient.
        encoder.register_module("pooler", None)
    if not getattr(encoder, "_supports_attention_backend", False):
        raise UserError(
            f"model.base: {type(encoder).__name__} has an attention of its own and cannot be packed; "
            "expected one that transformers' AttentionInterface serves (BERT, RoBERTa, DistilBERT, ModernBERT, ...)."
        )
    encoder.set_attn_implementation(PACKED_ATTENTION)


def _local_folder(base: str) -> Path:
    if Path(base).expanduser().is_dir():
        return Path(base).expanduser()
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise UserError(f"model.base: {base}: no such folder.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(base, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors", "*.py"])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"model.base: {base!r} is neither a folder nor to be had from the hub: {reason}"
        ) from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """transformers draws progress bars and warns about the pooler that we leave out on purpose."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()

"""The embedding model: texts in, embeddings out, in folders that other programs read.

    texts -> prompt and tokens -> encoder -> pooling -> dense 1024 -> 1792 -> every prefix is an embedding

as in section 1 of the paper's facts: the dense layer has a bias and no activation, and a prefix of width w, normalised
anew, is a usable embedding. The encoder is the user's own, unchanged. Embeddings leave `forward` without
normalisation: each Matryoshka width has a norm of its own.

    packed_encoder.py  tokens to embeddings                     encode.py  texts to embeddings
    loading.py  folders and hub names to models and back

Shapes: N texts, T tokens, D embedding width.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conan_embed.encoder import encode, loading
from conan_embed.encoder import tokenizer as tokenizer_module
from conan_embed.encoder.adapter import Adapter
from conan_embed.encoder.decoders import apply_direction
from conan_embed.encoder.dense import Dense
from conan_embed.encoder.encode import TOKEN_BUDGET
from conan_embed.encoder.formats import check_widths
from conan_embed.encoder.packed_encoder import PackedEncoder
from conan_embed.encoder.packing import mark_prompts
from conan_embed.encoder.positions import num_token_rows, steady_positions, usable_positions
from conan_embed.encoder.prompts import Prompts, check_prompts, fill
from conan_embed.encoder.self_test import check_packing, check_supported
from conan_embed.errors import UserError


class EmbeddingModel(PackedEncoder):
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
        check_prompts(prompts or {})
        check_supported(encoder)
        apply_direction(encoder)
        tokenizer_module.check_tokenizer(tokenizer, encoder)
        if not dense_layers and dense_width is not None:
            dense_layers = [Dense(encoder.config.hidden_size, dense_width)]
        super().__init__(encoder, pooling, dense_layers)
        self.tokenizer = tokenizer
        self.include_prompt = include_prompt
        self._prompt_lengths: dict[str, int] = {}
        self.widths = check_widths(widths, self.width)
        self.vocabulary_files = tokenizer_module.vocabulary_files(tokenizer)
        self.lowercase = False  # asked for by the folder, beside its tokenizer
        self.changed_tokenizer = False  # in a way that a class of its own would undo when it is loaded
        self.adapter: Adapter | None = None
        self.only_merged = ""  # why an adapter beside the name of its base would not be this model
        self.original_dropout: dict[str, float] = {}
        self.named_prompts = Prompts()
        self.templates = {"query": "", "passage": "", "sts": "", **(prompts or {})}
        self.instruction = instruction
        self.prompts = fill(self.templates, instruction)
        self.dataset_prompts: dict[str, dict[str, str]] = {}  # by data set and role, of sets with their own
        positions = usable_positions(encoder)
        steady = steady_positions(encoder)
        max_length = min(steady, 512) if max_length is None else max_length
        self.max_length = _check_length(max_length, positions, steady)
        check_packing(self)

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
        width = self.width if width is None else width
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

        Raises:
            UserError: the folder is there already and holds something else than a model, or cannot be written.
        """
        loading.save(self, Path(folder), details=details, card=card)


def _check_length(max_length: int, positions: int, steady: int) -> int:
    if not 3 <= max_length <= positions:
        raise UserError(
            f"model.max_length: {max_length} does not fit the model; expected 3 to {positions} tokens."
        )
    if max_length > steady:
        raise UserError(
            f"model.max_length: found {max_length}, expected at most {steady}: beyond it the model's rotary positions "
            "(rope_type longrope) change for all texts that are embedded together with a longer one."
        )
    return max_length

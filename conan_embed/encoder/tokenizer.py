"""The model's tokenizer: checked once, then called for tokens end to end.

Tokenizers written in Rust ("fast") and in Python both work. What is checked is what the rest takes for granted: that
the tokenizer knows words at all, that its tokens have rows in the encoder's table, and that there is a padding token
for clients that pad.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import normalizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conan_embed.encoder.positions import num_token_rows
from conan_embed.errors import UserError

_BATCH = 4096
_NOT_OF_TOKENS = (
    *("name_or_path", "vocab_file", "merges_file", "tokenizer_file", "tokenizer_object", "spm_file"),
    *("model_max_length", "model_input_names"),
)
"""Settings of a tokenizer that do not decide what tokens it makes."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel) -> None:
    """Check that the tokenizer fits the encoder, and give it a padding token where it has none.

    Raises:
        UserError: no vocabulary, tokens without a row in the encoder's table, token types, or no special token at all.
    """
    special = set(tokenizer.all_special_ids)
    ordinary = [index for index in tokenizer.get_vocab().values() if index not in special]
    if not ordinary:
        raise UserError(
            f"model.base: {type(tokenizer).__name__} has no vocabulary ({len(special)} special tokens alone); "
            "expected the tokenizer's files beside config.json."
        )
    rows = num_token_rows(encoder)
    if max(ordinary) >= rows:
        raise UserError(
            f"model.base: the tokenizer has {len(tokenizer):,} tokens, the model {rows:,}; expected a row of the "
            "model's table for each (resize_token_embeddings adds rows)."
        )
    _check_token_types(tokenizer)
    _ensure_padding(tokenizer)


def _check_token_types(tokenizer: PreTrainedTokenizerBase) -> None:
    if any(tokenizer("a").get("token_type_ids", [])):
        raise UserError(
            f"model.base: {type(tokenizer).__name__} gives a single text token types other than 0, which packing "
            "leaves out; expected a tokenizer whose single texts are of type 0."
        )


def _ensure_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Packing needs no padding token, clients of the saved model do; any will do, since it is masked."""
    if tokenizer.pad_token_id is not None:
        return
    padding = next((t for t in (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token) if t), None)
    if padding is None:
        raise UserError(
            f"model.base: {type(tokenizer).__name__} has no padding token and no end, unknown or start token to take "
            "its place; expected pad_token in tokenizer_config.json."
        )
    tokenizer.pad_token = padding


def lowercase(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make the tokenizer lower-case its texts first, as `do_lower_case` of sentence-transformers asks.

    Raises:
        UserError: a Python tokenizer that cannot be told so.
    """
    if not tokenizer.is_fast:
        if not hasattr(tokenizer, "do_lower_case"):
            raise UserError(
                f"model.base: do_lower_case: true is not supported with {type(tokenizer).__name__}, a tokenizer "
                "written in Python; expected a fast one (tokenizer.json)."
            )
        tokenizer.do_lower_case = True
        return
    backend = tokenizer.backend_tokenizer
    present = [] if backend.normalizer is None else [backend.normalizer]
    if "Lowercase" not in repr(present) and "lowercase=True" not in repr(present):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *present])


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int, num_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenise texts, special tokens included, cut to `max_length`.

    Args:
        num_rows: rows of the encoder's table of tokens.

    Returns:
        int32 [T] all tokens end to end, and int64 [N + 1] where each text begins.

    Raises:
        UserError: a text with a token that the encoder has no row for.
    """
    tokens, lengths = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
    for start in range(0, len(texts), _BATCH):
        batch = list(texts[start : start + _BATCH])
        ids = _token_ids(tokenizer, batch, truncation=True, max_length=max_length)
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int32, int(counts.sum()))
        _check_tokens(batch, flat, counts, num_rows)
        tokens.append(flat)
        lengths.append(counts)
    return np.concatenate(tokens), np.cumsum(np.concatenate(lengths))


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> np.ndarray:
    """Return int64 [N], how many tokens each text has, special tokens included, before it is cut."""
    batches = (list(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH))
    counts = [list(map(len, _token_ids(tokenizer, batch, truncation=False))) for batch in batches]
    return np.array(list(chain.from_iterable(counts)), dtype=np.int64)


def _token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str], **truncation: Any) -> list[list[int]]:
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(texts, **truncation, **options)["input_ids"]


def _check_tokens(texts: Sequence[str], tokens: np.ndarray, lengths: np.ndarray, num_rows: int) -> None:
    if len(tokens) and tokens.max() >= num_rows:
        row = int(np.searchsorted(np.cumsum(lengths), tokens.argmax(), side="right"))
        raise UserError(
            f"text {texts[row][:80]!r}: holds token {tokens.max()}, but the model has rows for {num_rows:,} tokens; "
            "expected a text without that special token."
        )


def tokenizer_text(tokenizer: PreTrainedTokenizerBase, files: Mapping[str, bytes]) -> str:
    """Return everything that decides a text's tokens except the length: for keys of caches.

    A fast tokenizer also writes down how it was called last (truncation, padding); that is left out, but for the side
    at which it cuts.

    Args:
        files: see `vocabulary_files`.
    """
    if not tokenizer.is_fast:
        return _python_tokenizer_text(tokenizer, files)
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    if tokenizer.truncation_side != "right":
        state["truncation_side"] = tokenizer.truncation_side
    return json.dumps(state)


def vocabulary_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the vocabulary files of a Python tokenizer by name; none of a fast one, which writes itself down whole.

    They are saved again as they were: what transformers writes in their place loses the merges of some tokenizers.
    """
    if tokenizer.is_fast:
        return {}
    paths = {name: getattr(tokenizer, kind, None) for kind, name in tokenizer.vocab_files_names.items()}
    return {name: Path(path).read_bytes() for name, path in paths.items() if path and Path(path).is_file()}


def _python_tokenizer_text(tokenizer: PreTrainedTokenizerBase, files: Mapping[str, bytes]) -> str:
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    settings = {name: str(getattr(tokenizer, name, None)) for name in ("truncation_side", "do_lower_case")}
    vocabulary = hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
    code = inspect.getsource(type(tokenizer))
    given = {
        name: str(value)
        for name, value in sorted(tokenizer.init_kwargs.items())
        if name not in _NOT_OF_TOKENS
    }
    return json.dumps({"code": code, "files": hashes, "vocabulary": vocabulary, "given": given, **settings})

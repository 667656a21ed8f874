"""Tiny random folders in exactly the layouts in which Qwen3-Embedding and EmbeddingGemma are published."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tests.encoder.families import random_encoder
from tests.tiny_models import SENTENCES, _pair_merges

_MODULE = "sentence_transformers.models."
QWEN_QUERY = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
GEMMA_PROMPTS = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "BitextMining": "task: search result | query: ",
    "Clustering": "task: clustering | query: ",
    "Classification": "task: classification | query: ",
    "InstructionRetrieval": "task: code retrieval | query: ",
    "Retrieval-query": "task: search result | query: ",
    "Retrieval-document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
    "Summarization": "task: summarization | query: ",
}


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def qwen3_embedding(folder: Path, *, include_prompt: bool = True, padding_side: str = "left") -> Path:
    """Write a tiny Qwen3-Embedding: last-token pooling, an end token from the tokenizer's template, no length file."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _pair_merges(60)
    vocabulary = {piece: i for i, piece in enumerate([*letters, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="$A <|endoftext|>", pair=None, special_tokens=[("<|endoftext|>", end)]
            ),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "padding_side": padding_side,
            "errors": "replace",
            "model_max_length": 131072,
            "tokenizer_class": "Qwen2Tokenizer",
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        },
    )
    encoder = random_encoder(
        "Qwen3Config",
        {
            "vocab_size": tokenizer.get_vocab_size() + 5,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 64,
            "max_position_embeddings": 512,
            "eos_token_id": end,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": True,
        },
    )
    _save_weights(folder, encoder, "Qwen3ForCausalLM")
    write(
        folder / "modules.json",
        _modules([("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]),
    )
    write(folder / "1_Pooling" / "config.json", _pooling(32, "lasttoken", include_prompt))
    write(folder / "config_sentence_transformers.json", _clients({"query": QWEN_QUERY, "document": ""}))
    return folder


def embedding_gemma(folder: Path, *, include_prompt: bool = True) -> Path:
    """Write a tiny EmbeddingGemma: bidirectional, mean pooling, two Dense layers without bias, prompts by task."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    letters = sorted({"▁", *(letter for text in SENTENCES for letter in text if letter.strip())})
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    vocabulary = {
        piece: i for i, piece in enumerate(dict.fromkeys([*special, *bytes_, *letters, "th", "▁th"]))
    }
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[("t", "h"), ("▁", "th")],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair=None, special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": True,
            "add_eos_token": True,
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "padding_side": "right",
            "model_max_length": 2048,
            "tokenizer_class": "GemmaTokenizer",
        },
    )
    encoder = random_encoder(
        "Gemma3TextConfig",
        {
            "vocab_size": tokenizer.get_vocab_size() + 5,
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "intermediate_size": 64,
            "max_position_embeddings": 2048,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "use_bidirectional_attention": True,
            "query_pre_attn_scalar": 16,
        },
    )
    _save_weights(folder, encoder, "Gemma3TextModel")
    write(
        folder / "modules.json",
        _modules(
            [
                ("Transformer", ""),
                ("Pooling", "1_Pooling"),
                ("Dense", "2_Dense"),
                ("Dense", "3_Dense"),
                ("Normalize", "4_Normalize"),
            ]
        ),
    )
    write(folder / "sentence_bert_config.json", {"max_seq_length": 2048, "do_lower_case": False})
    write(folder / "1_Pooling" / "config.json", _pooling(48, "mean_tokens", include_prompt))
    for name, (rows, columns) in {"2_Dense": (96, 48), "3_Dense": (24, 96)}.items():
        _save_dense(folder / name, rows, columns)
    write(
        folder / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer"} | _clients(GEMMA_PROMPTS),
    )
    return folder


def _save_weights(folder: Path, encoder: transformers.PreTrainedModel, architecture: str) -> None:
    encoder.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"architectures": [architecture]}
    rotary = config.pop("rope_parameters")  # the published folders say it in the older keys
    if "rope_theta" in rotary:
        config["rope_theta"] = rotary["rope_theta"]
    else:
        config["rope_theta"] = rotary["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rotary["sliding_attention"]["rope_theta"]
    write(path, config)


def _save_dense(folder: Path, rows: int, columns: int) -> None:
    config = {"in_features": columns, "out_features": rows, "bias": False}
    write(folder / "config.json", config | {"activation_function": "torch.nn.modules.linear.Identity"})
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows)) * 0.2
    save_file({"linear.weight": weight}, folder / "model.safetensors")


def _modules(parts: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": path, "type": _MODULE + kind}
        for i, (kind, path) in enumerate(parts)
    ]


def _pooling(width: int, mode: str, include_prompt: bool) -> dict[str, Any]:
    modes = (
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    )
    return {
        "word_embedding_dimension": width,
        **{f"pooling_mode_{name}": name == mode for name in modes},
        "include_prompt": include_prompt,
    }


def _clients(prompts: dict[str, str]) -> dict[str, Any]:
    versions = {"sentence_transformers": "5.1.0", "transformers": "4.57.0", "pytorch": "2.8.0"}
    return {
        "__version__": versions,
        "prompts": prompts,
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }

"""Small random encoders and decoders of many families, beside those of tests/tiny_models.py."""

import torch
import transformers
from transformers import PreTrainedModel

from tests.tiny_models import VOCABULARY

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
    "pad_token_id": 0,
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_DECODER = _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "attention_dropout": 0.0}
_LOCAL_AND_GLOBAL = ["sliding_attention", "full_attention", "sliding_attention"]
_GEMMA = _DECODER | {"sliding_window": 5, "query_pre_attn_scalar": 8}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 130, "pad_token_id": 0}
_OPT = {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_dim": 64,
}

# name: (config, its arguments); windows are shorter than the texts of the tests.
PACKABLE: dict[str, tuple[str, dict]] = {
    "camembert": ("CamembertConfig", _SIZES | _NO_DROPOUT | {"type_vocab_size": 1, "pad_token_id": 1}),
    "electra": ("ElectraConfig", _SIZES | _NO_DROPOUT | {"embedding_size": 16}),
    "albert": ("AlbertConfig", _SIZES | _NO_DROPOUT | {"embedding_size": 16}),
    "esm": ("EsmConfig", _SIZES | _NO_DROPOUT | {"position_embedding_type": "rotary", "mask_token_id": 4}),
    "nomic": ("NomicBertConfig", _SIZES),
    "jina-v3": ("JinaEmbeddingsV3Config", _SIZES),
    "eurobert": ("EuroBertConfig", _DECODER),
    "llama": ("LlamaConfig", _DECODER),
    "qwen2-sliding": (
        "Qwen2Config",
        _DECODER | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3Config", _DECODER),
    "mistral-sliding": ("MistralConfig", _DECODER | {"sliding_window": 5}),
    "gemma2-softcap": ("Gemma2Config", _GEMMA | {"attn_logit_softcapping": 1.0}),
    "gemma3": ("Gemma3TextConfig", _GEMMA | {"layer_types": _LOCAL_AND_GLOBAL}),
    "gemma3-bidirectional": (
        "Gemma3TextConfig",
        _GEMMA | {"layer_types": _LOCAL_AND_GLOBAL, "use_bidirectional_attention": True},
    ),
    "gpt2": (
        "GPT2Config",
        _GPT2 | {"vocab_size": VOCABULARY},
    ),
    "opt": (
        "OPTConfig",
        _OPT | {"vocab_size": VOCABULARY, "max_position_embeddings": 130, "dropout": 0.0, "pad_token_id": 0},
    ),
    "modernbert-decoder": ("ModernBertDecoderConfig", _SIZES | {"local_attention": 8}),
    "qwen3-moe": (
        "Qwen3MoeConfig",
        _DECODER | {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16},
    ),
}

# name: (config, its arguments, words of the refusal)
REFUSED: dict[str, tuple[str, dict, str]] = {
    "mobilebert": ("MobileBertConfig", {"vocab_size": VOCABULARY, "num_hidden_layers": 2}, "trigram_input"),
    "lfm2": ("Lfm2Config", _DECODER | {"layer_types": ["conv", "full_attention", "conv"]}, "'conv'"),
    "mamba": (
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
        "linear_attention|of its own",
    ),
    "gpt-oss": (
        "GptOssConfig",
        _DECODER | {"sliding_window": 5, "num_local_experts": 2, "num_experts_per_tok": 1},
        "'s_aux'",
    ),
    "llama4": (
        "Llama4TextConfig",
        _DECODER | {"attention_chunk_size": 4, "num_local_experts": 1, "intermediate_size_mlp": 64},
        "'chunked_attention'",
    ),
    "mpnet": ("MPNetConfig", _SIZES | _NO_DROPOUT, "attention .*of its own"),
    "deberta-v2": ("DebertaV2Config", _SIZES | _NO_DROPOUT, "attention .*of its own"),
    "bart": (
        "BartConfig",
        {"vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2}
        | {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
        "an encoder with a decoder",
    ),
}


def random_encoder(kind: str, arguments: dict, *, seed: int = 0) -> PreTrainedModel:
    """Return an encoder with wide random weights, so that a wrong mask or position changes the outcome."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = getattr(transformers, kind)(**arguments)
        encoder = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
        for weight in encoder.parameters():
            if weight.ndim >= 2:
                torch.nn.init.normal_(weight, std=0.3)
            else:
                weight.data += 0.2 * torch.randn_like(weight)
    return encoder

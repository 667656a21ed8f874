"""Tiny models of every encoder family, with random weights and a tokenizer made here.

`make_tiny_model("bert", pooling="cls")`, or the fixture `tiny_model`, is an `EmbeddingModel` small enough that a test
may make dozens of them. Weights are drawn wide (standard deviation 0.2, biases and norms too), so that a wrong mask or
a wrong position changes the outcome by far more than rounding does.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from conan_embed.encoder.model import EmbeddingModel

FAMILIES = ("bert", "roberta", "xlm-roberta", "distilbert", "modernbert")
POSITIONS = 128
VOCABULARY = 400
SENTENCES = (
    "今天天气很好，我们去公园散步吧。",
    "这家餐厅的菜很好吃，价格也不贵。",
    "如何用 Python 读取一个很大的文件？",
    "逐行读取文件，就不会占用太多内存。",
    "深度学习模型需要大量的训练数据。",
    "北京是中华人民共和国的首都。",
    "The weather is nice today, let us walk in the park.",
    "How do I read a very large file in Python?",
    "Read the file line by line, so that it never stands in memory whole.",
    "Deep learning models need a lot of training data.",
    "A hard negative looks like an answer, but it is none.",
    "好",
    "Yes.",
)


def make_tiny_model(
    family: str,
    *,
    pooling: str = "mean",
    dense_width: int | None = None,
    widths: Sequence[int] = (),
    layers: int = 2,
    hidden: int = 32,
    max_length: int | None = None,
    prompts: dict[str, str] | None = None,
    seed: int = 0,
) -> EmbeddingModel:
    """Return a model of `family` (one of FAMILIES) in evaluation mode, without dropout."""
    # Drawn from a stream of their own: a test's random numbers do not depend on the models it makes.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = tiny_encoder(family, layers=layers, hidden=hidden)
        model = EmbeddingModel(
            encoder,
            tiny_tokenizer(family),
            pooling=pooling,
            dense_width=dense_width,
            widths=widths,
            prompts=prompts,
            max_length=max_length,
        )
    return model.eval()


def tiny_encoder(family: str, *, layers: int = 2, hidden: int = 32) -> PreTrainedModel:
    """Return the plain Hugging Face encoder, weights from torch's global generator."""
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
    usual = common | {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 2 * hidden,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    # RoBERTa's positions begin after its padding id, so it needs two more than it can use.
    shifted = usual | {
        "max_position_embeddings": POSITIONS + 2,
        "type_vocab_size": 1,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    config: transformers.PreTrainedConfig
    match family:
        case "bert":
            config = transformers.BertConfig(**usual)
        case "roberta":
            config = transformers.RobertaConfig(**shifted)
        case "xlm-roberta":
            config = transformers.XLMRobertaConfig(**shifted)
        case "distilbert":
            config = transformers.DistilBertConfig(
                **common,
                dim=hidden,
                n_layers=layers,
                n_heads=4,
                hidden_dim=2 * hidden,
                dropout=0.0,
                attention_dropout=0.0,
            )
        case "modernbert":
            config = transformers.ModernBertConfig(
                **common,
                hidden_size=hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                intermediate_size=2 * hidden,
                local_attention=8,  # shorter than most texts: the window must matter
                layer_types=[("full_attention", "sliding_attention")[layer % 2] for layer in range(layers)],
                pad_token_id=0,
                cls_token_id=2,
                bos_token_id=2,
                sep_token_id=3,
                eos_token_id=3,
            )
        case _:
            raise AssertionError(family)
    encoder = transformers.AutoModel.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval()


@functools.cache
def tiny_tokenizer(family: str) -> PreTrainedTokenizerBase:
    """Return the family's own tokenizer class over a small vocabulary learnt from SENTENCES."""
    if family in ("bert", "distilbert", "modernbert"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trained.train_from_iterator(
            [sentence.lower() for sentence in SENTENCES],
            trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False),
        )
        tokenizer = transformers.BertTokenizer(vocab=trained.get_vocab())
        if family != "modernbert":
            return tokenizer
        # ModernBERT has no tokenizer class of its own.
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family == "roberta":
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trained.train_from_iterator(
            SENTENCES,
            trainers.BpeTrainer(
                vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
            ),
        )
        merges: Any = [tuple(pair) for pair in _model_of(trained)["merges"]]
        return transformers.RobertaTokenizer(vocab=trained.get_vocab(), merges=merges)
    assert family == "xlm-roberta", family
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        SENTENCES,
        trainers.UnigramTrainer(
            vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    vocabulary = [(piece, score) for piece, score in _model_of(trained)["vocab"]]
    return transformers.XLMRobertaTokenizer(vocab=vocabulary)


def _model_of(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.to_str())["model"]

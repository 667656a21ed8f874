"""Tiny models of every encoder family, with random weights and a tokenizer made here.

`make_tiny_model("bert", pooling="cls")`, or the fixture `tiny_model`, is an `EmbeddingModel` small enough that a test
may make dozens of them. Weights are drawn wide (standard deviation 0.2, biases and norms too), so that a wrong mask or
a wrong position changes the outcome by far more than rounding does.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import pre_tokenizers
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
    """Return the family's own tokenizer class over the characters and words of SENTENCES.

    The vocabulary is made by hand: the trainers of `tokenizers` break ties differently from process to process.
    """
    if family in ("bert", "distilbert", "modernbert"):
        words = sorted({word for sentence in SENTENCES for word in re.findall(r"\w+", sentence.lower())})
        letters = sorted({letter for sentence in SENTENCES for letter in sentence.lower() if letter.strip()})
        pieces = [*letters, *(f"##{letter}" for letter in letters if letter.isascii()), *words]
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer = transformers.BertTokenizer(vocab=_numbered([*special, *pieces]))
        if family != "modernbert":
            return tokenizer
        # ModernBERT has no tokenizer class of its own.
        names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
        return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **names)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family == "roberta":
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        merges = _pair_merges(60)
        vocabulary = _numbered([*special, *letters, *(left + right for left, right in merges)])
        return transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)  # type: ignore[arg-type]
    assert family == "xlm-roberta", family
    whole = {"▁" + word for sentence in SENTENCES for word in sentence.split() if word.isascii()}
    single = {"▁", *(letter for sentence in SENTENCES for letter in sentence if letter.strip())}
    scored = [*((name, 0.0) for name in special), *((piece, -3.0) for piece in sorted(whole))]
    scored += [(piece, -5.0) for piece in sorted(single - whole)]
    return transformers.XLMRobertaTokenizer(vocab=scored)


def _numbered(pieces: Sequence[str]) -> dict[str, int]:
    numbered = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    assert len(numbered) <= VOCABULARY
    return numbered


def _pair_merges(count: int) -> list[tuple[str, str]]:
    """Byte-pair merges of SENTENCES, the most frequent pair first, ties by name."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    words = [list(word) for sentence in SENTENCES for word, _ in split(sentence)]
    merges = []
    for _ in range(count):
        pairs = Counter(pair for word in words for pair in itertools.pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in words:
            for place in range(len(word) - 1, 0, -1):
                if tuple(word[place - 1 : place + 1]) == best:
                    word[place - 1 : place + 1] = ["".join(best)]
    return merges

"""Encoders with random weights in the sizes people train, and random texts of skewed lengths, without any network.

A text is a run of words of a made-up vocabulary, a token a word, so that lengths are what they are meant to be: those
of queries and passages as they come, log-normal with a long tail up to 512 tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

VOCABULARY = 30_522
MAX_LENGTH = 512
NEGATIVES = 7


@dataclass(frozen=True)
class Size:
    """BERT's shape."""

    hidden: int
    layers: int
    heads: int
    inner: int

    @property
    def matrix_weights(self) -> int:
        """Weights of the matrices that every token is multiplied with."""
        return self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.inner)

    def training_flops(self, lengths: np.ndarray) -> float:
        """Return the operations of one step over texts of these lengths: forward 2 a weight and token, backward twice.

        Attention adds 4 x length x hidden a token and layer (scores and their product with the values). What is
        computed again, and padding, does not count.
        """
        matrices = 6.0 * self.matrix_weights * lengths.sum()
        attention = 12.0 * self.layers * self.hidden * (lengths.astype(np.float64) ** 2).sum()
        return float(matrices + attention)


SIZES = {
    "bert-large": Size(1024, 24, 16, 4096),
    "bert-base": Size(768, 12, 12, 3072),
    "minilm": Size(384, 6, 12, 1536),
    "tiny": Size(64, 2, 2, 128),
}


def model_folder(size: str, folder: Path) -> Path:
    """Write the model as a plain transformers folder, once; return it."""
    path = folder / size
    if not (path / "config.json").exists():
        shape = SIZES[size]
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=MAX_LENGTH,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        _tokenizer().save_pretrained(path)
        transformers.BertModel(config, add_pooling_layer=False).save_pretrained(path)
    return path


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {name: number for number, name in enumerate(special)}
    words |= {f"w{number}": number + len(special) for number in range(VOCABULARY - len(special))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_LENGTH,
    )


def texts(count: int, median: int, *, seed: int) -> list[str]:
    """Return texts whose lengths have this median, a spread of a factor of two, and end at 510 words."""
    generator = np.random.default_rng(seed)
    lengths = np.exp(generator.normal(np.log(median), 0.7, count)).astype(int).clip(3, MAX_LENGTH - 2)
    words = np.array([f"w{number}" for number in generator.integers(0, VOCABULARY - 4, lengths.sum())])
    return [" ".join(part) for part in np.split(words, np.cumsum(lengths)[:-1])]


def rows(count: int) -> pl.DataFrame:
    """Return rows of a query, a positive and seven negatives, no text twice."""
    passages = texts(count * (1 + NEGATIVES), 100, seed=1)
    return pl.DataFrame(
        {
            "query": texts(count, 14, seed=0),
            "positive": [[text] for text in passages[:count]],
            "negative": [
                passages[count + start : count + start + NEGATIVES]
                for start in range(0, count * NEGATIVES, NEGATIVES)
            ],
        }
    )

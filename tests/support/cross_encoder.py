"""A tiny cross-encoder on disk."""

from pathlib import Path

import torch
import transformers

from tests.tiny_models import tiny_encoder, tiny_tokenizer


def make_cross_encoder(folder: Path) -> Path:
    """Write a random BERT that gives a pair of texts one score; return the folder."""
    config = tiny_encoder("bert").config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.BertForSequenceClassification(config)
        for weight in model.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    tiny_tokenizer("bert").save_pretrained(folder)
    return folder

"""A small recipe, and a run that was stopped in the middle."""

import os
import shutil
import signal

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.recipes.schema import Recipe
from conan_embed.training.run import train
from tests.support.small_runs import NUM_STEPS, interrupt_at, write
from tests.tiny_models import SENTENCES, make_tiny_model


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A folder with a tiny base model, training files and an evaluation folder; nobody writes into it."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_model("bert", dense_width=12, widths=(4,), prompts={"query": "问："}).save(folder / "model")
    words = sorted(
        {piece for text in SENTENCES for piece in text.replace("，", " ").replace(",", " ").split()}
    )
    generator = np.random.default_rng(0)
    phrase = lambda: " ".join(generator.choice(words, 3))  # noqa: E731
    write(
        folder / "pairs.jsonl",
        [{"query": f"{phrase()} {i}", "positive": [phrase(), phrase()]} for i in range(20)],
    )
    write(
        folder / "given.jsonl",
        [{"query": phrase(), "positive": phrase(), "negative": [phrase()] * 2} for _ in range(6)],
    )
    write(folder / "classes.jsonl", [{"text": f"{phrase()} {i}", "label": i % 3} for i in range(12)])
    write(folder / "sts.jsonl", [{"text_a": phrase(), "text_b": phrase(), "score": i % 4} for i in range(10)])
    (folder / "eval" / "sts").mkdir(parents=True)
    shutil.copy(folder / "sts.jsonl", folder / "eval" / "sts" / "dev.jsonl")
    return folder


@pytest.fixture
def recipe(base, tmp_path):
    """A function that makes a recipe of this test; sections given are laid over a small joint run."""

    def make(name="run", **sections):
        values = {
            "model": {"base": str(base / "model")},
            "data": {
                "retrieval": [{"name": "pairs", "path": str(base / "pairs.jsonl")}],
                "sts": [{"name": "sts", "path": str(base / "sts.jsonl")}],
            },
            "step": {"queries": 4, "num_negatives": 2, "sts_pairs": 4},
            "mining": {"depth": 12, "offset": 1, "precision": "float32"},
            # A small decay and a high ceiling: whatever was seen twice is replaced at every check.
            "hard_negatives": {
                "source": "ranking",
                "interval": 2,
                "decay": 0.1,
                "max_score": 5.0,
                "on_exhausted": "restart",
            },
            "optimizer": {"learning_rate": 2e-3},
            "training": {
                "steps": NUM_STEPS,
                "checkpoint_every": 3,
                "keep_checkpoints": 9,
                "precision": "float32",
            },
            "tracking": {"tensorboard": False},
            "output": str(tmp_path / name),
            "cache": str(tmp_path / "cache"),
        }
        for section, settings in sections.items():
            values[section] = values.get(section, {}) | settings
        return Recipe.model_validate(values)

    return make


@pytest.fixture
def half(recipe, monkeypatch):
    """A run stopped after step 5, with checkpoints of 3 and 5."""
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(UserError, match="stopped on request"):
            train(recipe())
    return recipe

"""conan-embed trains text-embedding models whose negatives stay hard (arXiv 2408.15710).

    import conan_embed as ce

    pairs = ce.read_pairs("faq.jsonl")
    recipe = ce.Recipe.small(model="intfloat/multilingual-e5-small", retrieval=pairs)
    run = ce.train(recipe)

The names below are the public API. Each is imported when it is first used, so `import conan_embed` takes milliseconds.
The losses are in `conan_embed.objectives`, the trainer for sentence-transformers in `conan_embed.integrations`, ONNX in
`conan_embed.export`; everything else is internal and may change.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError("conan-embed runs on Linux and macOS; on Windows, install it in WSL (wsl --install).")
if (
    sys.platform == "darwin"
):  # torch reads it when it is imported: operators that Apple's GPUs lack run on the CPU
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

if TYPE_CHECKING:
    from conan_embed.ablation.comparison import Comparison as Comparison
    from conan_embed.api.comparison import compare as compare
    from conan_embed.api.evaluation import compare_scores as compare_scores
    from conan_embed.api.evaluation import evaluate as evaluate
    from conan_embed.api.filtering import filter_pairs as filter_pairs
    from conan_embed.api.index import Index as Index
    from conan_embed.api.model import load_model as load_model
    from conan_embed.api.negatives import MinedNegatives as MinedNegatives
    from conan_embed.api.negatives import find_false_negatives as find_false_negatives
    from conan_embed.api.negatives import mine_hard_negatives as mine_hard_negatives
    from conan_embed.api.pairs import Pairs as Pairs
    from conan_embed.api.pairs import read_pairs as read_pairs
    from conan_embed.api.training import Run as Run
    from conan_embed.api.training import train as train
    from conan_embed.api.tuning import tune as tune
    from conan_embed.encoder.model import EmbeddingModel as EmbeddingModel
    from conan_embed.errors import UserError as UserError
    from conan_embed.evaluation.results import EvaluationResult as EvaluationResult
    from conan_embed.filtering.recipe import FilterRecipe as FilterRecipe
    from conan_embed.recipes.schema import Recipe as Recipe
    from conan_embed.tuning.result import TuneResult as TuneResult

__version__ = "0.1.0"

_MODULES = {
    "Comparison": "ablation.comparison",
    "EmbeddingModel": "encoder.model",
    "EvaluationResult": "evaluation.results",
    "FilterRecipe": "filtering.recipe",
    "Index": "api.index",
    "MinedNegatives": "api.negatives",
    "Pairs": "api.pairs",
    "Recipe": "recipes.schema",
    "Run": "api.training",
    "TuneResult": "tuning.result",
    "UserError": "errors",
    "compare": "api.comparison",
    "compare_scores": "api.evaluation",
    "evaluate": "api.evaluation",
    "filter_pairs": "api.filtering",
    "find_false_negatives": "api.negatives",
    "load_model": "api.model",
    "mine_hard_negatives": "api.negatives",
    "read_pairs": "api.pairs",
    "train": "api.training",
    "tune": "api.tuning",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Evaluation on local sets: `discover` what a folder holds, `evaluate` a model on it, show a `table`."""

from conan_embed.evaluation.cached_encoder import CachedEncoder, Embedder
from conan_embed.evaluation.discovery import LocalTask, discover
from conan_embed.evaluation.local import evaluate, evaluate_task
from conan_embed.evaluation.results import EvaluationResult, TaskResult, summarise
from conan_embed.evaluation.table import table

__all__ = [
    "CachedEncoder",
    "Embedder",
    "EvaluationResult",
    "LocalTask",
    "TaskResult",
    "discover",
    "evaluate",
    "evaluate_task",
    "summarise",
    "table",
]

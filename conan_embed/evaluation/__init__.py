"""Evaluation on local sets: `discover` what a folder holds, `evaluate` a model on it, show a `table`."""

from conan_embed.evaluation.local import Embedder, evaluate, evaluate_task, summarise
from conan_embed.evaluation.sets import LocalTask, discover
from conan_embed.evaluation.table import table

__all__ = ["Embedder", "LocalTask", "discover", "evaluate", "evaluate_task", "summarise", "table"]

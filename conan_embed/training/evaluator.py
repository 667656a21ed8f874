"""Evaluation during a run: on the main process, before, during and after training."""

import xxhash

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.evaluation.discovery import LocalTask
from conan_embed.evaluation.local import evaluate
from conan_embed.evaluation.neighbours import examples_after, examples_before, neighbours
from conan_embed.evaluation.results import EvaluationResult
from conan_embed.files import read_json, write_json
from conan_embed.training.metrics import Log
from conan_embed.training.run_folder import RunFolder


class Evaluator:
    """The development sets of a run.

    Args:
        tasks: the sets.
        folder: the run directory.
        precision: of matrix products, "bfloat16" or "float32".
    """

    def __init__(self, tasks: list[LocalTask], folder: RunFolder, precision: str) -> None:
        self.tasks, self.folder, self.precision = tasks, folder, precision

    def identity(self) -> str:
        """Return a hash of the evaluation sets, names and files: scores on other sets do not compare."""
        key = xxhash.xxh3_128()
        for task in self.tasks:
            files = sorted(task.path.rglob("*")) if task.path.is_dir() else [task.path]
            for file in filter(lambda file: file.is_file(), files):
                key.update(f"{task.key} {file.name}".encode() + file.read_bytes())
        return key.hexdigest()

    def evaluate(self, model: EmbeddingModel, step: int, log: Log, *, examples: bool) -> float:
        """Evaluate the model of `step`, write and print the results; return the average.

        Args:
            examples: write what some queries find, too.

        Raises:
            UserError: a score or an embedding is not finite.
        """
        encoder = CachedEncoder(model, precision=self.precision)
        widths = model.widths if len(model.widths) > 1 else None
        result = evaluate(encoder, self.tasks, widths=widths)
        log.write(
            "evaluation", {"step": step, "results": result.to_json()["tasks"], "summary": result.summary}
        )
        self.folder.log(f"step {step}: {_line(result)}")
        if examples:
            self._write_examples(encoder, step)
        return result.average

    def _write_examples(self, encoder: CachedEncoder, step: int) -> None:
        """Write what some queries of the first retrieval set find, before training and after it."""
        task = next((task for task in self.tasks if task.type == "retrieval"), None)
        path = self.folder.examples
        if task is None:
            return
        if step == 0:
            write_json(path, examples_before(task.name, neighbours(encoder, task)))
        elif path.exists():
            write_json(path, examples_after(read_json(path), task.name, neighbours(encoder, task)))


def _line(result: EvaluationResult) -> str:
    return ", ".join(f"{name} {100 * value:.2f}" for name, value in result.summary.items())

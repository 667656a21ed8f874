"""What `conan-embed evaluate` does: our own metrics on a folder of sets, or a benchmark through mteb."""

from collections.abc import Sequence
from pathlib import Path

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation.benchmarks import evaluate_benchmark
from conan_embed.evaluation.local import evaluate, widths_from
from conan_embed.evaluation.results import EvaluationResult
from conan_embed.evaluation.stored import kinds_from
from conan_embed.files import write_json


def evaluate_as_asked(
    model: str,
    folder: Path | None,
    *,
    benchmark: str | None,
    tasks: Sequence[str] | None,
    local: Path | None,
    widths: Sequence[str] | None,
    vectors: Sequence[str] | None,
    precision: str,
    instructions: bool,
    output: Path | None,
) -> EvaluationResult:
    """Evaluate on `folder`, or, without one, through mteb on `benchmark`, `tasks` or the sets of `local`.

    Raises:
        UserError: nothing to evaluate on, or two things; and whatever is wrong with them.
    """
    through_mteb = benchmark is not None or local is not None
    if folder is not None and through_mteb:
        raise UserError("evaluate: found a folder and --benchmark or --local; expected one of them.")
    if folder is None and not through_mteb and not tasks:
        raise UserError(
            'evaluate: nothing to evaluate on; expected a folder of sets, --benchmark "MTEB(cmn, v1)" or --task AFQMC.'
        )
    if folder is not None and output is not None and output.is_dir():
        raise UserError(
            f"--output {output}: is a folder; expected a JSON file for the scores of a folder of sets."
        )
    wanted, stored, device = widths_from(widths), kinds_from(vectors), collectives.start()
    if stored and folder is None:
        raise UserError("evaluate: found --vectors without a folder of sets; expected one.")
    if instructions and folder is not None:
        raise UserError("evaluate: found --instructions beside a folder of sets; expected tasks of mteb.")
    if folder is not None:
        loaded = EmbeddingModel.load(model).to(device)
        result = evaluate(
            loaded, folder, tasks=tasks, widths=wanted, vectors=stored, precision=precision, name=model
        )
        if output is not None:
            write_json(output, result.to_json())
        return result
    return evaluate_benchmark(
        EmbeddingModel.load(model).to(device),
        output or Path("results"),
        benchmark=benchmark,
        tasks=tasks,
        local=local,
        widths=wanted,
        precision=precision,
        instructions=instructions,
        name=model,
    )

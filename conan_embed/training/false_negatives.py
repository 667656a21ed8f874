"""`conan-embed false-negatives`: the hard negatives of a finished run that may be answers, for a person to label."""

from dataclasses import dataclass
from pathlib import Path

from conan_embed.distributed import collectives
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.negatives.false_negatives import MARGIN, hard_negatives
from conan_embed.recipes.loading import load_recipe
from conan_embed.training.checkpoint import check_data, saved_table
from conan_embed.training.held_out import hold_out
from conan_embed.training.run_folder import RunFolder
from conan_embed.training.setup import load_data, make_embed


@dataclass(frozen=True)
class FalseNegatives:
    """The result of `find_false_negatives`.

    Attributes:
        file: JSON lines, one for each likely false negative.
        likely: how many there are.
        checked: how many pairs were looked at.
    """

    file: Path
    likely: int
    checked: int


def find_false_negatives(
    run: Path, output: Path | None = None, *, limit: int = 500, margin: float = MARGIN
) -> FalseNegatives:
    """Write the likely false negatives of a finished run as JSON lines for a person to label.

    `hard_negatives.jsonl` of the run is written anew, too, with all pairs that were looked at.

    Args:
        output: the file; by default false_negatives.jsonl in the run.
        limit, margin: see `hard_negatives`.

    Raises:
        UserError: the folder is no finished run with hard negatives, or its data files changed or are gone.
    """
    device = collectives.start()
    folder = RunFolder(run)
    checkpoint = _finished_checkpoint(folder)
    recipe = load_recipe(folder.recipe)
    collectives.start(timeout=recipe.training.timeout)
    model = EmbeddingModel.load(str(folder.model)).to(device).eval()
    tasks = load_data(hold_out(recipe, folder.held_out).data, recipe.cache, model)
    check_data(checkpoint, {"texts": tasks.store.identity()}, allow_changes=False)
    table = saved_table(checkpoint, recipe.step.num_negatives)
    embed = make_embed(tasks, model, recipe.training)
    pairs = hard_negatives(
        tasks.retrieval, tasks.store, table, folder.mining, embed, limit=limit, margin=margin
    )
    likely = [pair.to_json() for pair in pairs if pair.suspect]
    file = folder.false_negatives if output is None else Path(output)
    folder.write_hard_negatives(pairs)
    folder.write_lines(file, likely)
    return FalseNegatives(file, len(likely), len(pairs))


def _finished_checkpoint(folder: RunFolder) -> Path:
    """Return the last checkpoint of a finished run that trained with hard negatives."""
    checkpoint = folder.newest_checkpoint()
    if not folder.recipe.exists() or checkpoint is None or not folder.is_finished():
        raise UserError(f"{folder}: not a finished run: expected recipe.yaml, model/ and a checkpoint in it.")
    if not (checkpoint / "negatives.safetensors").exists():
        raise UserError(
            f"{checkpoint}: holds no hard negatives; expected the checkpoint of a run that used some."
        )
    return checkpoint

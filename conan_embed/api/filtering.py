"""Filter raw pairs into clean ones."""

from pathlib import Path
from typing import Literal

from conan_embed.errors import missing_extra
from conan_embed.filtering.recipe import FilterRecipe, read_filter_recipe
from conan_embed.filtering.summary import Summary


def filter_pairs(
    recipe: FilterRecipe | str | Path,
    output: str | Path,
    *,
    runner: Literal["native", "ray"] = "native",
    resume: bool = True,
) -> Summary:
    """Filter raw text pairs into clean ones, and keep what was dropped with the reason.

    Args:
        recipe: a `FilterRecipe`, or the path of a YAML file.
        output: folder for `kept/` and `dropped/` (Parquet), `summary.json` and `report.html`.
        runner: "native" uses this machine, "ray" a Ray cluster.
        resume: continue an interrupted run of the same recipe.

    Returns:
        how many pairs were read and kept, and where the summary is.

    Raises:
        UserError: a mistake in the recipe or in a file, or `output` holds a run of another recipe.

    Example:
        >>> summary = ce.filter_pairs(ce.FilterRecipe(sources=[{"path": "faq.jsonl"}]), "clean")
        >>> summary.read
        12
    """
    try:
        from conan_embed.filtering.pipeline import filter_pairs as run_filter
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from None
    from conan_embed.reporting.page import report

    if not isinstance(recipe, FilterRecipe):
        recipe = read_filter_recipe(recipe)
    summary = run_filter(recipe, output, runner=runner, resume=resume)
    report([Path(output)])
    return summary

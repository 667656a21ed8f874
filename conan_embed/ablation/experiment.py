"""Run arms and compare them: the paper's table 4, a sweep over settings, or arms of your own.

The output folder holds the runs (run.py) and
    results.json    the `Comparison`
    table.md        the same as Markdown (tables.py)
    arms.html       the same as a page (page.py)
"""

from collections.abc import Sequence
from pathlib import Path

from conan_embed.ablation.arms import Arm, Equal, grid, table_4
from conan_embed.ablation.comparison import Comparison, compare
from conan_embed.ablation.page import write_page
from conan_embed.ablation.run import run_arms
from conan_embed.ablation.tables import markdown
from conan_embed.console import console
from conan_embed.distributed import collectives
from conan_embed.errors import UserError, suggestion
from conan_embed.files import write_json, write_text
from conan_embed.recipes.loading import load_recipe


def ablate(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int],
    output: Path | None = None,
    equal: Equal = "examples",
    against: str | None = None,
    jobs: int = 1,
) -> Comparison:
    """Run the paper's table 4 (`arms.table_4`) on a recipe; the rest as for `run_and_compare`."""
    arms = table_4(load_recipe(source, list(overrides)), equal)
    return run_and_compare(source, overrides, arms, seeds, output, against=against, jobs=jobs)


def sweep(
    source: str | Path,
    settings: Sequence[str],
    *,
    seeds: Sequence[int],
    output: Path | None = None,
    one_at_a_time: bool = False,
    against: str | None = None,
    jobs: int = 1,
) -> Comparison:
    """Run the combinations of the values of `key=v1,v2,...` (`arms.grid`); the rest as for `run_and_compare`."""
    arms = grid(settings, one_at_a_time=one_at_a_time)
    return run_and_compare(source, (), arms, seeds, output, against=against, jobs=jobs)


def run_and_compare(
    source: str | Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    output: Path | None = None,
    *,
    against: str | None = None,
    jobs: int = 1,
) -> Comparison:
    """Run what is missing; write results.json, table.md and arms.html; return the comparison.

    Args:
        source, overrides: the recipe that the arms change.
        output: by default the recipe's own output with "-arms" appended.
        against: name of the arm that differences are taken from; by default the first.
        jobs: arms trained at a time, each in a process of its own.

    Raises:
        UserError: as `run_arms`; or no arm is called `against`.
    """
    if output is None:
        output = Path(load_recipe(source, [*overrides, *arms[0].overrides]).output + "-arms")
    base = _index_of(against, [arm.name for arm in arms])
    results = run_arms(source, overrides, arms, seeds, output, jobs=jobs)
    comparison = compare(arms, seeds, results, base, title=f"{Path(source).stem}: {len(arms)} arms")
    if collectives.is_main_process():
        write(comparison, output)
        console.print(f"table: {output / 'table.md'}\npage: {output / 'arms.html'}")
    return comparison


def write(comparison: Comparison, output: Path) -> None:
    """Write results.json, table.md and arms.html into a folder."""
    write_json(output / "results.json", comparison.to_json())
    write_text(output / "table.md", markdown(comparison))
    write_page(comparison, output / "arms.html")


def _index_of(against: str | None, names: Sequence[str]) -> int:
    if against is None:
        return 0
    if against not in names:
        raise UserError(
            f"--against {against}: no such arm{suggestion(against, names)}; expected one of {', '.join(names)}."
        )
    return names.index(against)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of `0,1,2`.

    Raises:
        UserError: something is not a whole number, or a seed is repeated.
    """
    try:
        seeds = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers separated by commas, as 0,1,2.") from None
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text}: a seed is repeated; expected different ones.")
    return seeds

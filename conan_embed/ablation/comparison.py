"""Results of arms as one comparison: plain values (results.json), Markdown (table.md) and a table for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from conan_embed.ablation.arms import Arm, Equal, grid, table_4
from conan_embed.ablation.run import run_arms
from conan_embed.ablation.statistics import LEVEL, Estimate, averages, paired_differences
from conan_embed.distributed import collectives
from conan_embed.errors import UserError, suggestion
from conan_embed.files import write_json, write_text
from conan_embed.recipes.schema import load_recipe
from conan_embed.reporting.arms import write_page

Comparison = dict[str, Any]


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
    """Run the paper's table 4 (`arms.table_4`) on a recipe; other arguments as for `run_and_compare`."""
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
    """Run the combinations of the values of `key=v1,v2,...` (`arms.grid`); other arguments as for `run_and_compare`."""
    arms = grid(settings, one_at_a_time=one_at_a_time)
    return run_and_compare(source, (), arms, seeds, output, against=against, jobs=jobs)


def run_and_compare(
    source: str | Path,
    overrides: Sequence[str],
    arms: Sequence[Arm],
    seeds: Sequence[int],
    output: Path | None,
    *,
    against: str | None,
    jobs: int,
) -> Comparison:
    """Run what is missing, write results.json, table.md and arms.html into `output`, return the comparison.

    Args:
        source, overrides: the recipe that the arms change.
        output: else the recipe's own output with "-arms" behind it.
        against: name of the arm that differences are taken from; else the first.

    Raises:
        UserError: as `run_arms`; or no arm has the name `against`.
    """
    if output is None:
        output = Path(load_recipe(source, [*overrides, *arms[0].overrides]).output + "-arms")
    names = [arm.name for arm in arms]
    if against is not None and against not in names:
        raise UserError(
            f"--against {against}: no such arm{suggestion(against, names)}; expected one of {', '.join(names)}."
        )
    results = run_arms(source, overrides, arms, seeds, output, jobs=jobs)
    comparison = compare(arms, seeds, results, 0 if against is None else names.index(against))
    comparison["title"] = f"{Path(source).stem}: {len(arms)} arms"
    if collectives.is_main_process():
        write_json(output / "results.json", comparison)
        write_text(output / "table.md", markdown(comparison))
        write_page(comparison, output / "arms.html")
    return comparison | {"output": str(output)}


def compare(
    arms: Sequence[Arm], seeds: Sequence[int], results: Sequence[Sequence[Mapping[str, Any]]], against: int
) -> Comparison:
    """Return means, spreads and paired differences of all arms, for each task, each type and their average.

    Args:
        results: [arm][seed], as `run_job` writes them.
        against: the arm that differences are taken from.

    Returns:
        a dictionary fit for JSON, scores as fractions of one: `seeds`, `against` (a name), `level` of the intervals,
        `arms` (name, overrides, changes in words, values, what was seen) and `rows`: by task or average, a list with
        `mean`, `spread` (standard deviation over seeds, None of one), `by_seed`, `difference`, `low`, `high` and
        `clear` of each arm.
    """
    tasks = list(results[0][0]["scores"])
    estimates = paired_differences({task: _items(results, task) for task in tasks}, against)
    rows = {}
    one_task = {task: {task: 1.0} for task in tasks}
    for name, shares in {**averages(tasks), **one_task}.items():
        by_seed_AS = np.array(
            [
                [sum(share * found["scores"][task] for task, share in shares.items()) for found in of_arm]
                for of_arm in results
            ]
        )
        rows[name] = [
            _cell(arm, values_S, estimate)
            for arm, values_S, estimate in zip(arms, by_seed_AS, estimates[name], strict=True)
        ]
    return {
        "seeds": list(seeds),
        "against": arms[against].name,
        "level": LEVEL,
        "arms": [
            {
                "name": arm.name,
                "overrides": list(arm.overrides),
                "changes": arm.changes,
                "values": dict(arm.values),
                "seen": _mean_seen(of_arm),
            }
            for arm, of_arm in zip(arms, results, strict=True)
        ],
        "rows": rows,
    }


def _items(results: Sequence[Sequence[Mapping[str, Any]]], task: str) -> np.ndarray:
    """float64 [arms, seeds, items], the mean over items being the score exactly."""
    scores_AS = np.array([[found["scores"][task] for found in of_arm] for of_arm in results])
    if task not in results[0][0]["items"]:
        return scores_AS[:, :, None]
    items_ASI = np.array([[found["items"][task] for found in of_arm] for of_arm in results])
    return items_ASI + (scores_AS - items_ASI.mean(axis=2))[:, :, None]


def _cell(arm: Arm, values_S: np.ndarray, estimate: Estimate) -> dict[str, Any]:
    repeated = arm.trained and len(values_S) > 1
    known = np.isfinite(estimate.low)
    return {
        "mean": float(values_S.mean()),
        "spread": float(values_S.std(ddof=1)) if repeated else None,
        "by_seed": values_S.tolist() if arm.trained else [float(values_S[0])],
        "difference": estimate.value,
        "low": estimate.low if known else None,
        "high": estimate.high if known else None,
        "clear": estimate.clear,
    }


def _mean_seen(of_arm: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {key: float(np.mean([found["seen"][key] for found in of_arm])) for key in of_arm[0]["seen"]}


# --- tables ---------------------------------------------------------------------------------------


def shown_rows(comparison: Comparison) -> list[str]:
    """Return the rows that a short table shows: the average, then the types."""
    return ["average", *(name for name in comparison["rows"] if "/" not in name and name != "average")]


def score_text(cell: Mapping[str, Any]) -> str:
    """Return a score in per cent with its spread."""
    spread = "" if cell["spread"] is None else f" ± {100 * cell['spread']:.2f}"
    return f"{100 * cell['mean']:.2f}{spread}"


def difference_text(cell: Mapping[str, Any]) -> str:
    """Return a difference in points with its interval."""
    interval = "" if cell["low"] is None else f" [{100 * cell['low']:+.2f}, {100 * cell['high']:+.2f}]"
    return f"{100 * cell['difference']:+.2f}{interval}"


def caption(comparison: Comparison) -> str:
    """Return what the figures of a comparison are."""
    seeds = ", ".join(map(str, comparison["seeds"]))
    drawn = "seeds and test items" if len(comparison["seeds"]) > 1 else "test items only (one seed)"
    return (
        f"Main scores in per cent, mean ± standard deviation over seeds ({seeds}). Differences are paired, from "
        f"{comparison['against']!r}, with {comparison['level']:.0%} bootstrap intervals over {drawn}; "
        "bold: the interval leaves out zero."
    )


def markdown(comparison: Comparison) -> str:
    """Return the comparison as a Markdown page: scores, differences, every task, what was seen."""
    arms = comparison["arms"]
    seen = ["updates", "queries", "pairs", "tokens", "replaced"]
    return "\n".join(
        [
            f"# {comparison.get('title', 'Arms')}",
            "",
            caption(comparison),
            "",
            *score_lines(comparison),
            *task_lines(comparison),
            *_grid(
                ["seen (mean of the seeds)", *seen],
                [[arm["name"], *(f"{arm['seen'][key]:,.0f}" for key in seen)] for arm in arms],
            ),
            *(f"- {arm['name']}: {arm['changes']}" for arm in arms),
            "",
        ]
    )


def score_lines(comparison: Comparison) -> list[str]:
    """Return two Markdown tables: average and types of every arm, and their differences."""
    rows, names, arms = comparison["rows"], shown_rows(comparison), comparison["arms"]
    differing = [i for i, arm in enumerate(arms) if arm["name"] != comparison["against"]]
    return [
        *_grid(
            ["arm", *names],
            [[arm["name"], *(score_text(rows[name][i]) for name in names)] for i, arm in enumerate(arms)],
        ),
        *_grid(
            [f"difference from {comparison['against']}", *names],
            [[arms[i]["name"], *(_bold(rows[name][i]) for name in names)] for i in differing],
        ),
    ]


def task_lines(comparison: Comparison) -> list[str]:
    """Return a Markdown table: every task, a column for each arm."""
    return _grid(
        ["task", *(arm["name"] for arm in comparison["arms"])],
        [[name, *map(score_text, cells)] for name, cells in comparison["rows"].items() if "/" in name],
    )


def _grid(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, and an empty one."""
    lines = [headings, ["---"] * len(headings), *body]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _bold(cell: Mapping[str, Any]) -> str:
    return f"**{difference_text(cell)}**" if cell["clear"] else difference_text(cell)


def table(comparison: Comparison) -> Table:
    """Return the comparison as a table for the terminal."""
    shown = Table(title=comparison.get("title"), caption=caption(comparison), show_lines=True)
    shown.add_column("arm")
    names = shown_rows(comparison)
    for name in names:
        shown.add_column(name.replace("_", " "), justify="right")
    for i, arm in enumerate(comparison["arms"]):
        cells = [comparison["rows"][name][i] for name in names]
        differs = arm["name"] != comparison["against"]
        shown.add_row(
            arm["name"],
            *(_cell_text(cell, differs) for cell in cells),
        )
    return shown


def _cell_text(cell: Mapping[str, Any], differs: bool) -> Text:
    text = Text(score_text(cell))
    return text.append(f"\n{difference_text(cell)}", "bold" if cell["clear"] else "dim") if differs else text


def seeds_from(text: str) -> list[int]:
    """Return the seeds of `0,1,2`.

    Raises:
        UserError: something else than whole numbers, or one twice.
    """
    try:
        found = [int(seed) for seed in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text}: expected whole numbers with commas, as 0,1,2.") from None
    if len(set(found)) < len(found):
        raise UserError(f"--seeds {text}: a seed stands there twice; expected different ones.")
    return found

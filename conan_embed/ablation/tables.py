"""A comparison as Markdown, and as a table for the terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from conan_embed.ablation.comparison import Cell, Comparison
from conan_embed.encoder.card import markdown_cells


def markdown(comparison: Comparison) -> str:
    """Return a Markdown page: scores, differences, every task, and what each arm trained on."""
    arms = comparison.arms
    seen = list(arms[0].seen)
    return "\n".join(
        [
            f"# {comparison.title}",
            "",
            caption(comparison),
            "",
            *score_lines(comparison),
            *task_lines(comparison),
            *_grid(
                ["seen (mean over seeds)", *seen],
                [[arm.name, *(f"{arm.seen[key]:,.0f}" for key in seen)] for arm in arms],
            ),
            *(f"- {arm.name}: {arm.changes}" for arm in arms),
            "",
        ]
    )


def score_lines(comparison: Comparison) -> list[str]:
    """Return two Markdown tables: averages of every arm, and their differences."""
    rows, names, arms = comparison.rows, comparison.averages, comparison.arms
    scores = [[arm.name, *(score_text(rows[name][i]) for name in names)] for i, arm in enumerate(arms)]
    differences = [
        [arm.name, *(marked(rows[name][i]) for name in names)]
        for i, arm in enumerate(arms)
        if arm.name != comparison.against
    ]
    return [
        *_grid(["arm", *names], scores),
        *_grid([f"difference from {comparison.against}", *names], differences),
    ]


def task_lines(comparison: Comparison) -> list[str]:
    """Return a Markdown table: every task, a column for each arm."""
    body = [[name, *map(score_text, comparison.rows[name])] for name in comparison.tasks]
    return _grid(["task", *(arm.name for arm in comparison.arms)], body)


def table(comparison: Comparison) -> Table:
    """Return the averages and their differences as a table for the terminal."""
    result = Table(title=comparison.title, caption=caption(comparison), show_lines=True)
    result.add_column("arm")
    for name in comparison.averages:
        result.add_column(name.replace("_", " "), justify="right")
    for i, arm in enumerate(comparison.arms):
        cells = [comparison.rows[name][i] for name in comparison.averages]
        result.add_row(arm.name, *(_terminal(cell, arm.name != comparison.against) for cell in cells))
    return result


def caption(comparison: Comparison) -> str:
    """Return a sentence on what the numbers are."""
    seeds = ", ".join(map(str, comparison.seeds))
    resampled = "seeds and test items" if len(comparison.seeds) > 1 else "test items only (one seed)"
    return (
        f"Main scores in per cent, mean ± standard deviation over seeds ({seeds}). Differences are paired, from "
        f"{comparison.against!r}, with {comparison.level:.0%} bootstrap intervals over {resampled}; "
        "bold: the interval leaves out zero."
    )


def score_text(cell: Cell) -> str:
    """Return a score in per cent with its spread."""
    spread = "" if cell.spread is None else f" ± {100 * cell.spread:.2f}"
    return f"{100 * cell.mean:.2f}{spread}"


def difference_text(cell: Cell) -> str:
    """Return a difference in points with its interval."""
    if cell.low is None or cell.high is None:
        return f"{100 * cell.difference:+.2f}"
    return f"{100 * cell.difference:+.2f} [{100 * cell.low:+.2f}, {100 * cell.high:+.2f}]"


def marked(cell: Cell) -> str:
    """Return a difference with its interval, bold where the interval leaves out zero."""
    return f"**{difference_text(cell)}**" if cell.clear else difference_text(cell)


def _terminal(cell: Cell, differs: bool) -> Text:
    text = Text(score_text(cell))
    return text.append(f"\n{difference_text(cell)}", "bold" if cell.clear else "dim") if differs else text


def _grid(headings: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table, and an empty one."""
    lines = (headings, ["---"] * len(headings), *body)
    return [*(f"| {' | '.join(markdown_cells(cells))} |" for cells in lines), ""]

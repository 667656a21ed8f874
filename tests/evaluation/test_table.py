"""The table shows the figures of the results."""

from dataclasses import replace

from rich.console import Console

from conan_embed.evaluation import EvaluationResult, TaskResult, table
from conan_embed.evaluation.table import by_type


def results(
    model: str, scores: dict[str, float], widths: dict[int, dict[str, float]] | None = None
) -> EvaluationResult:
    tasks = {
        key: TaskResult(score, "spearman", {}, {w: of_width[key] for w, of_width in (widths or {}).items()})
        for key, score in scores.items()
    }
    return EvaluationResult(model, 64, {}, tasks, widths=tuple(widths or ()))


def lines(shown) -> list[list[str]]:
    """The cells of each row."""
    console = Console(width=120, color_system=None)
    with console.capture() as capture:
        console.print(shown)
    rows = [line.replace("┃", "│").split("│") for line in capture.get().splitlines()]
    return [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) > 1]


NEW = {"sts/A": 0.5124, "sts/B": 0.7, "retrieval/C": 0.2}
OLD = {"sts/A": 0.5, "sts/B": 0.75, "retrieval/C": 0.2}


def test_tasks_means_and_averages() -> None:
    rows = lines(table(results("new", NEW)))
    assert rows == [
        ["task", "metric", "width 64"],
        ["C", "spearman", "20.00"],
        ["retrieval", "mean of 1", "20.00"],
        ["A", "spearman", "51.24"],
        ["B", "spearman", "70.00"],
        ["sts", "mean of 2", "60.62"],
        ["average", "mean of types", "40.31"],
        ["", "mean of tasks", "47.08"],
    ]


def test_differences_to_a_baseline() -> None:
    rows = lines(table(results("new", NEW), baseline=results("old", OLD)))
    assert rows[0][3] == "against old"
    assert [row[3] for row in rows[1:]] == ["+0.00", "+0.00", "+1.24", "-5.00", "-1.88", "-0.94", "-1.25"]


def test_no_difference_where_the_baseline_does_not_cover_a_row() -> None:
    old = results("old", {key: score for key, score in OLD.items() if key != "sts/B"})
    rows = lines(table(results("new", NEW), baseline=old))
    # The last cells of a row are empty, not averages of other tasks.
    assert [row[3] for row in rows[1:]] == ["+0.00", "+0.00", "+1.24", "", "", "", ""]


def test_a_baseline_of_another_main_score_is_compared_by_one_that_both_have() -> None:
    new = results("new", NEW)
    ours, theirs = TaskResult(0.61, "ap", {"ap": 0.61, "f1": 0.7}), TaskResult(0.8, "accuracy", {"ap": 0.6})
    new = replace(new, tasks={**new.tasks, "sts/A": ours})
    shown = table(new, baseline=replace(new, model="old", tasks={**new.tasks, "sts/A": theirs}))
    assert [row[3] for row in lines(shown)[1:]] == [
        "+0.00",
        "+0.00",
        "+1.00",
        "+0.00",
        "+0.50",
        "+0.25",
        "+0.33",
    ]
    assert str(shown.caption) == "sts/A: compared by ap, which both have."
    nothing = table(new, baseline=replace(new, tasks={**new.tasks, "sts/A": TaskResult(0.8, "accuracy", {})}))
    assert [row[3] for row in lines(nothing)[1:]] == ["+0.00", "+0.00", "", "+0.00", "", "", ""]
    assert str(nothing.caption) == "sts/A: not compared, accuracy is no ap."


def test_results_of_other_data_are_not_subtracted() -> None:
    new = results("new", NEW)
    tasks = {key: replace(task, content="one") for key, task in new.items()}
    old = replace(new, model="old", tasks={**tasks, "sts/B": replace(tasks["sts/B"], content="two")})
    shown = table(replace(new, tasks=tasks), baseline=old)
    assert [row[3] for row in lines(shown)[1:]] == ["+0.00", "+0.00", "+0.00", "", "", "", ""]
    assert str(shown.caption) == "sts/B: not compared, old was evaluated on other data."


def test_widths() -> None:
    of_width = {
        64: NEW,  # the full width is there already
        16: {key: score / 2 for key, score in NEW.items()},
        8: dict.fromkeys(NEW, 0.1),
    }
    rows = lines(table(results("new", NEW, of_width)))
    assert rows[0][3:] == ["16", "8"]
    assert rows[5][3:] == ["30.31", "10.00"]
    assert [row[3] for row in lines(table(results("new", NEW, of_width), widths=[8]))[1:]] == ["10.00"] * 7


def test_published_rows_stand_beside_c_mteb_alone() -> None:
    new = results("new", NEW, {16: {key: score / 2 for key, score in NEW.items()}})
    assert by_type(new) is None
    assert by_type(replace(new, benchmark="MTEB(eng, v2)")) is None
    rows = lines(by_type(replace(new, benchmark="C-MTEB")))
    assert rows[0] == ["model", "sets", "Avg", "Cls", "Clust", "PairCls", "Rerank", "Retr", "STS"]
    assert rows[1] == ["width 64", "3", "47.08", "", "", "", "", "20.00", "60.62"]
    assert rows[2] == ["width 16", "3", "23.54", "", "", "", "", "10.00", "30.31"]
    assert rows[3][3:] == ["0", "0", "0", "0", "1", "2"]
    conan = ["Conan-embedding", "35", "72.62", "75.03", "66.33", "91.66", "72.76", "76.67", "64.18"]
    assert rows[4][0] == "published:" and conan in rows[5:]


def test_types_of_mteb_that_we_do_not_have_are_shown_too() -> None:
    rows = lines(table(results("new", {"Summarization/X": 0.3, "sts/A": 0.5})))
    assert [row[0] for row in rows[1:]] == ["A", "sts", "X", "Summarization", "average", ""]

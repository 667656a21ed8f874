"""The page of a run: verdict first, the questions won and lost, replaced negatives."""

from pathlib import Path

import polars as pl
import pytest

from conan_embed.files import write_json
from conan_embed.tuning.page import write_page
from conan_embed.tuning.plan import Files
from conan_embed.tuning.replaced import Replaced, Replacements, Text
from conan_embed.tuning.result import Elsewhere, TuneResult, read_result
from conan_embed.tuning.verdict import judge

QUESTIONS = ["how are logs rotated?", "如何备份数据库？", "what <b>is</b> a park?", "where is the file?"]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path / "run")
    folder = files.pairs / "test" / "retrieval" / "docs"
    folder.mkdir(parents=True)
    files.scores.mkdir()
    write_json(files.pairs / "summary.json", {"name": "docs"})
    ids = [f"d{number}" for number in range(4)]
    pl.DataFrame({"doc_id": ids, "text": [f"text of {name} <i>" for name in ids]}).write_parquet(
        folder / "corpus.parquet"
    )
    names = [f"q{number}" for number in range(4)]
    pl.DataFrame({"query_id": names, "text": QUESTIONS}).write_parquet(folder / "queries.parquet")
    pl.DataFrame({"query_id": names, "doc_id": ids, "score": [1] * 4}).write_parquet(folder / "qrels.parquet")
    for name, scores in (("base", [0.0, 0.5, 1.0, 1.0]), ("tuned", [1.0, 0.63, 0.5, 1.0])):
        found = [[ids[row], ids[(row + 1) % 4]] for row in range(4)]
        pl.DataFrame({"query": QUESTIONS, "ndcg_at_10": scores, "found": found}).write_parquet(
            files.scores / f"{name}.parquet"
        )
    return files


def _result(files: Files, **changes) -> TuneResult:
    values = {
        "folder": files.folder,
        "verdict": judge([0.0, 0.5, 1.0, 1.0], [1.0, 0.63, 0.5, 1.0]),
        "elsewhere": Elsewhere(0.5, 0.497, {"retrieval/python": (0.5, 0.497)}, -0.0123, 0.004),
        "bm25": 0.41,
        "share": 0.75,
        "tried": {"1": {"development": 0.6, "other": 0.4}, "0.75": {"development": 0.59, "other": 0.5}},
        "seconds": {"training steps": 61.0},
        "estimated": {"training steps": 120.0, "choosing the weights": 3.0},
    }
    return TuneResult(**{**values, **changes})


def test_the_page_leads_with_the_verdict_and_shows_what_changed(files: Files) -> None:
    example = Replaced(
        "what is a park?",
        Text("a park", 0.8, 0.9),
        [Text("a car park", 0.7, 0.2)],
        [Text("a zoo", None, 0.4)],
    )
    page = write_page(_result(files), Replacements(12, 30, [example]), ["30 documents"], ["learning rate"])
    text = page.read_text()
    body = text[text.index("<body>") :]
    assert body.index("NO CLEAR DIFFERENCE") < body.index("how are logs rotated?")
    won, lost = body.index('id="won"'), body.index('id="lost"')
    assert won < body.index(QUESTIONS[0]) < lost < body.index("what &lt;b&gt;is&lt;/b&gt; a park?")
    assert body.index("<h4>Base</h4>") < body.index("<h4>Tuned</h4>")
    assert "<b>is</b>" not in body and "text of d0 &lt;i&gt;" in body
    assert 'lang="zh"' in body
    for shown in (
        "30 negatives of 12 training queries",
        "was 0.70",
        "have 0.20 now",
        "41.0",
        "-0.3",
        "-1.2 to +0.4",
        "75 %",
    ):
        assert shown in body, shown
    assert "where is the file?" not in body, "what did not change is not shown"


def test_a_run_without_replaced_negatives_has_no_such_section(files: Files) -> None:
    page = write_page(_result(files), None, [], []).read_text()
    assert 'id="replaced"' not in page and "#replaced" not in page
    assert 'id="data"' not in page


def test_results_are_read_as_they_were_written(files: Files) -> None:
    result = _result(files)
    write_json(files.result, result.to_json())
    assert read_result(files.folder) == result

"""The page of a filter output: its numbers are those of summary.json, its texts are those that were dropped."""

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.reporting.filter_sections import SECTIONS
from conan_embed.reporting.filters import bars, behind, behind_runs, read_filtered
from conan_embed.reporting.page import report
from conan_embed.reporting.runs import read_runs
from tests.support.fake_filter import HOSTILE, LEFT, PAIRS, REASONS, STAGES
from tests.support.page_parts import Page


@pytest.fixture
def copy(filtered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filtered, tmp_path / "copy"))


@pytest.fixture(scope="module")
def page(filtered: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(report([filtered], tmp_path_factory.mktemp("page") / "page.html").read_text("utf-8"))


def test_the_page_has_every_section_and_says_what_happened(page):
    assert set(SECTIONS) <= set(page.values("id"))
    text = " ".join(page.text.split())
    assert "5,000 of 10,000 pairs (50%) were kept." in text
    assert "positive_tokens (2,150), teacher_score (1,370) and near_duplicate (750)" in text
    assert "knowledge_base (100%) kept the largest share, 社交媒体 (10%) the smallest" in text
    assert "243" in text  # pairs a second
    for name, counts in LEFT.items():  # the paper's table 1: every category after every stage
        row = text[text.index(f"{name} {counts[0]:,} ") :]
        assert [
            int(n.replace(",", "")) for n in re.findall(r"[\d,]+(?![\d,.]*%)", row)[: len(counts)]
        ] == counts


def test_rows_that_could_not_be_read_are_told_with_their_places(page):
    text = " ".join(page.text.split())
    assert "Bad rows 1,207 not read, left out" in text
    assert (
        "data/docs.csv 1,204 not UTF-8: 1,204 line 2: <b>0xff</b> data/[b]微博[/b].jsonl 3 wrong type: 2, "
        "broken JSON: 1 line 7: column 'query': found the number 3, expected a string"
    ) in text


def test_every_reason_is_there_with_its_samples_and_nothing_is_markup(page, tmp_path):
    for _, reason, about, dropped, applied, _, samples in REASONS:
        assert f"{reason} {about} {dropped:,}" in " ".join(page.text.split())
        assert f"{applied:,}" in page.text
        for query, positive, _, original in samples:
            assert query in page.text and positive in page.text
            assert (
                PAIRS.get(original, ("", ""))[1] in page.text
            )  # what a duplicate resembles stands beside it
    assert HOSTILE in page.text
    assert not page.tags & {"script", "img", "link", "iframe"}


def test_each_stage_of_the_funnel_takes_from_the_one_before(filtered):
    drawn = bars(read_filtered(filtered))
    total = np.sum(list(LEFT.values()), axis=0)
    assert [bar.width for bar in drawn] == pytest.approx(100 * total / total[0])
    for before, after in itertools.pairwise(drawn):
        assert after.width + after.lost_width == pytest.approx(before.width, abs=0.02)


def test_a_run_tells_which_filter_its_data_come_from(filtered, dynamic, static, monkeypatch):
    assert behind(str(filtered / "kept" / "news" / "*.parquet")) == filtered.resolve()
    assert behind(str(filtered / "kept" / "news")) == filtered.resolve()
    assert behind(str(filtered / "kept" / "news" / "00000.parquet")) == filtered.resolve()
    monkeypatch.chdir(filtered.parent)
    assert behind("干净/kept/news/*.parquet") == filtered.resolve()
    assert behind(str(filtered.parent / "*.parquet")) is None
    (found,) = behind_runs(read_runs([dynamic, static, dynamic]))  # once, however many runs
    assert found.summary.startswith(
        "Data set drcd_dev comes from a filter. 5,000 of 10,000 pairs (50%) were kept."
    )
    assert found.bars == bars(read_filtered(filtered))


def test_pairs_that_are_gone_leave_their_duplicates_alone(copy, tmp_path):
    shutil.rmtree(copy / "kept")
    text = Page(report([copy], tmp_path / "page.html").read_text("utf-8")).text
    assert REASONS[4][6][0][0] in text
    assert PAIRS[7][0] not in text


def test_without_a_teacher_and_without_pairs_there_is_still_a_page(copy):
    summary = json.loads((copy / "summary.json").read_text("utf-8"))
    del summary["scores"]
    (copy / "summary.json").write_text(json.dumps(summary), "utf-8")
    assert "scores" not in Page(report([copy]).read_text("utf-8")).values("id")
    nothing = dict.fromkeys(STAGES, 0)
    summary |= {"rows": {"read": 0, "kept": 0, "dropped": 0}, "reasons": [], "sources": {}}
    summary |= {"funnel": {"stages": STAGES, "total": nothing, "categories": {}}}
    summary["speed"] |= {
        "rows_per_second": 0.0,
        "stages": {"read": {"seconds": 0.0, "rows_per_second": None}},
    }
    (copy / "summary.json").write_text(json.dumps(summary), "utf-8")
    assert "There were no pairs to read." in Page(report([copy]).read_text("utf-8")).text


def test_an_unfinished_filter_run_is_said(copy):
    (copy / "summary.json").unlink()
    with pytest.raises(
        UserError, match=r"copy: this filter run is not finished .* to continue where it stopped"
    ):
        report([copy])


def test_a_filter_output_has_its_page_alone(filtered, copy, dynamic):
    with pytest.raises(UserError, match=r"dynamic is none; a filter output has a page of its own"):
        report([dynamic, filtered])
    with pytest.raises(UserError, match=r"and so is .*copy; a filter output has a page of its own"):
        report([filtered, copy])

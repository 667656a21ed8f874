import json
import random
import shutil
from pathlib import Path

import pytest

from conan_embed.errors import UserError
from conan_embed.reporting.page import SECTIONS, render, report, script
from conan_embed.reporting.runs import FILES, read_runs
from tests.support.fake_run import EXAMPLES, TASKS, write_run
from tests.support.page_parts import Page

OF_ONE_RUN = [key for key in SECTIONS if key != "mixing"]  # which compares runs


def _page(*runs: Path, output: Path) -> Page:
    return Page(report(runs, output).read_text(encoding="utf-8"))


@pytest.fixture
def copy(dynamic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dynamic, tmp_path / "copy"))


@pytest.fixture(scope="session")
def one(dynamic, tmp_path_factory) -> Page:
    return _page(dynamic, output=tmp_path_factory.mktemp("page") / "one.html")


@pytest.fixture(scope="session")
def two(dynamic, static, tmp_path_factory) -> Page:
    return _page(static, dynamic, output=tmp_path_factory.mktemp("page") / "two.html")


def test_a_page_has_every_section_and_its_navigation_leads_there(one):
    ids = one.values("id")
    assert len(ids) == len(set(ids))
    anchors = [value for tag, name, value in one.attributes if (tag, name) == ("a", "href")]
    assert anchors == [f"#{key}" for key in OF_ONE_RUN]
    assert set(OF_ONE_RUN) <= set(ids)


@pytest.mark.parametrize("pages", ["one", "two"])
def test_a_page_loads_nothing_and_runs_nothing(pages, request):
    page = request.getfixturevalue(pages)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    for tag, name, value in page.attributes:
        if name in {"href", "src", "xlink:href", "style", "clip-path"}:
            assert "//" not in value, (tag, name, value)
    css = (Path(__file__).parents[2] / "conan_embed/reporting/page.css").read_text(encoding="utf-8")
    assert "url(" not in css
    assert "@import" not in css


def test_the_page_shows_the_scores_of_every_task(one):
    for task, (_, _, before, gain) in TASKS.items():
        assert task in one.text
        assert f"{100 * before:.1f}" in one.text
        assert f"{100 * (before + gain):.1f}" in one.text
    assert "−1.2" in one.text  # SciFact fell


def test_texts_are_shown_as_they_are_and_never_as_markup(one, two):
    for page in (one, two):
        for query, passages in EXAMPLES:
            assert query in page.text
            assert all(text[:200] in page.text for text, _ in passages[:3])
    assert "<script>alert('query')</script>" in one.text
    assert "<img src=x onerror=alert(1)>" in one.text


HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def test_names_and_facts_from_files_are_never_markup(copy, tmp_path):
    for name in (
        "run.json",
        "examples.json",
        "evaluation.jsonl",
        "mining/mining.json",
        "hard_negatives.jsonl",
    ):
        path = copy / name
        text = path.read_text(encoding="utf-8")
        for word in ("MedicalQA", "2 cores", "drcd_dev", "the development passages", "ndcg_at_10"):
            text = text.replace(word, json.dumps(HOSTILE)[1:-1])
        path.write_text(text, encoding="utf-8")
    page = _page(copy, copy, output=tmp_path / "two.html"), _page(copy, output=tmp_path / "one.html")
    for each in page:
        assert HOSTILE in each.text
        assert "script" not in each.tags
        assert "img" not in each.tags
        assert not [name for _, name, _ in each.attributes if name == "onerror"]


MISSING = {
    "metrics.jsonl": {"losses", "speed", "scores"},
    "evaluation.jsonl": {"results", "evaluation"},
    "negatives.jsonl": {"negatives"},
    "examples.json": {"examples"},
    "mining/mining.json": {"mining"},
    "hard_negatives.jsonl": {"hardest"},
    "run.json": set(),  # the recipe is a fact too
    "recipe.yaml": {"filters"},
}


@pytest.mark.parametrize("name", MISSING)
def test_without_a_file_its_sections_are_left_out(copy, tmp_path, name):
    (copy / name).unlink()
    page = _page(copy, output=tmp_path / "page.html")
    assert set(OF_ONE_RUN) - set(page.values("id")) == MISSING[name]


@pytest.mark.parametrize("name", FILES)
def test_each_file_alone_makes_a_page(dynamic, tmp_path, name):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(dynamic / name, run)
    page = _page(run, output=tmp_path / "page.html")
    assert set(page.values("id")) & set(SECTIONS)


@pytest.mark.parametrize("name", [*FILES, "mining/mining.json", "hard_negatives.jsonl"])
def test_a_file_may_be_cut_short_anywhere(copy, tmp_path, name):
    whole = (copy / name).read_bytes()
    for place in [0, len(whole) - 1, *random.Random(name).sample(range(len(whole)), 30)]:
        (copy / name).write_bytes(whole[:place])
        read_runs([copy])
    _page(copy, output=tmp_path / "page.html")


def test_suspected_false_negatives_stand_apart_from_the_other_hard_ones(one):
    text = " ".join(one.text.split())
    num = sum(len(texts) - 1 for _, texts in EXAMPLES)
    start = text.index(f"5 of the {num} hardest negatives look like answers")
    suspects, others = text[start:].split("The hardest others in use")
    assert EXAMPLES[0][0] in suspects and EXAMPLES[1][0] not in suspects
    assert EXAMPLES[1][0] in others.split("Mined negatives")[0]
    assert "conan-embed false-negatives" in suspects
    assert "0.70 mined 0.79" in suspects


def test_several_runs_stand_side_by_side(two):
    assert "dynamic ended highest: mean of 7 tasks" in two.text
    assert "hard_negatives.source" in two.text  # a key in which the recipes differ
    assert "model.base" not in two.text.split("The recipe of")[0]  # and one in which they do not
    # before, static, dynamic, and the difference of dynamic from static, which is the first run
    assert "MedicalQA 33.1 37.1 41.2 +4.1" in " ".join(two.text.split())


def test_runs_of_different_bases_have_no_common_start(dynamic, tmp_path):
    other = write_run(tmp_path / "other", seed=3)
    path = other / "evaluation.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("0.331", "0.4"), encoding="utf-8")
    text = " ".join(_page(dynamic, other, output=tmp_path / "page.html").text.split())
    assert "Task dynamic other" in text
    assert "Task before" not in text


def test_when_nothing_beat_the_start_the_page_says_so(tmp_path):
    run = write_run(tmp_path / "worse", gain=-1.0)
    text = _page(run, output=tmp_path / "page.html").text
    assert "No evaluated step beat the start, so model/ is the model from before training." in text
    assert "fell from" in text


def test_an_unfinished_run_says_how_far_it_came(copy, tmp_path):
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:120]))
    assert "of 300, not finished" in _page(copy, output=tmp_path / "page.html").text


def test_a_long_run_stays_small(tmp_path):
    run = write_run(tmp_path / "long", num_steps=6000, interval=100)
    assert report([run], tmp_path / "page.html").stat().st_size < 500_000


def test_the_page_goes_into_the_first_run_by_default(copy, dynamic):
    assert report([copy, dynamic]) == copy / "report.html"
    assert (copy / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_the_same_files_make_the_same_page(dynamic, tmp_path):
    first, second = (report([dynamic], tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second


def test_no_run_is_a_mistake():
    with pytest.raises(UserError, match="no folder was named"):
        report([])


@pytest.mark.parametrize(
    ("text", "attributes"),
    [
        ("plain English, naïve", ""),
        ("如何 pad 一个张量？", ' lang="zh"'),
        ("テンソルの長さ", ' lang="ja"'),
        ("텐서", ' lang="ko"'),
        ("بايثون", ' dir="auto"'),
    ],
)
def test_a_text_is_marked_with_the_language_of_its_letters(text, attributes):
    assert script(text) == attributes


def test_runs_that_mix_their_tasks_differently_show_figure_4(
    dynamic: Path, static: Path, tmp_path: Path
) -> None:
    shutil.copytree(static, tmp_path / "sequential")
    recipe = tmp_path / "sequential" / "recipe.yaml"
    recipe.write_text(recipe.read_text("utf-8").replace("mixing: joint", "mixing: sequential"), "utf-8")
    assert 'id="mixing"' in render(read_runs([dynamic, tmp_path / "sequential"]))
    assert 'id="mixing"' not in render(read_runs([dynamic, static]))

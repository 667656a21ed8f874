"""Whole runs: the funnel adds up, a killed run goes on to the same output, other recipes are refused."""

import html
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering import pipeline
from conan_embed.filtering.pipeline import filter_pairs
from conan_embed.filtering.recipe import Decontaminate, Engine, FilterRecipe, Source, Teacher
from conan_embed.reporting.page import report
from tests.tiny_models import make_tiny_model

HAN = [chr(c) for c in range(0x4E00, 0x4E00 + 3000)]
RUN = """
import sys
from conan_embed.filtering.pipeline import filter_pairs
from conan_embed.filtering.recipe import read_filter_recipe
if __name__ == "__main__":
    filter_pairs(read_filter_recipe(sys.argv[1]), sys.argv[2], runner=sys.argv[3])
"""


def sentence(rng: random.Random, length: int = 60) -> str:
    return "".join(rng.choices(HAN, k=length)) + "。"


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """400 pairs of two categories with planted faults; 100 a shard."""
    folder = tmp_path_factory.mktemp("raw")
    rng = random.Random(0)
    pairs = [(sentence(rng, 20), sentence(rng)) for _ in range(400)]
    pairs[10] = ("<br>", "text")
    pairs[20] = ("标题" * 3, "转发微博")
    pairs[300] = pairs[5]
    pairs[390] = (pairs[6][0], pairs[6][1][:-9] + "变" + pairs[6][1][-8:])
    pairs[350] = ("Der schnelle braune Fuchs springt über den faulen Hund", "是的，这是一句德语的话")
    columns = {"query": [p[0] for p in pairs], "positive": [p[1] for p in pairs]}
    frame = pl.DataFrame({**columns, "category": ["news"] * 200 + ["web"] * 200})
    frame.write_parquet(folder / "pairs.parquet")
    (folder / "evaluation").mkdir()
    pl.DataFrame({"text": [pairs[50][1]]}).write_parquet(folder / "evaluation" / "corpus.parquet")
    return folder


def recipe_for(raw: Path, **more: object) -> FilterRecipe:
    engine = {"shard_rows": 100, "workers": 1, **more.pop("engine", {})}
    return FilterRecipe(
        sources=(Source(path=str(raw / "pairs.parquet")),),
        decontaminate=Decontaminate(paths=(str(raw / "evaluation"),)),
        engine=Engine(**engine),
        **more,
    )


@pytest.fixture
def here(monkeypatch):
    """Run the steps in a plain loop, for tests that are not about the engine."""
    monkeypatch.setattr(pipeline, "run_step", lambda step, shards, **_: (step(shard) for shard in shards))


@pytest.fixture(scope="module")
def whole(raw, tmp_path_factory):
    """The output of one run from end to end on the native runner."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    filter_pairs(recipe_for(raw), folder)
    return folder


def assert_same_output(one: Path, two: Path) -> None:
    for left, right in zip(output_of(one), output_of(two), strict=True):
        assert left.equals(right) if isinstance(left, pl.DataFrame) else left == right


def output_of(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict]:
    summary = json.loads((folder / "summary.json").read_text())
    del summary["speed"]
    return (
        pl.read_parquet(folder / "kept" / "*" / "*.parquet"),
        pl.read_parquet(folder / "dropped" / "*.parquet"),
        summary,
    )


def test_every_pair_is_kept_or_dropped_for_a_reason(raw, whole):
    kept, dropped, summary = output_of(whole)
    assert summary["rows"] == {"read": 400, "kept": kept.height, "dropped": dropped.height}
    assert sorted([*kept["id"], *dropped["id"]]) == [(i // 100 << 32) + i % 100 for i in range(400)]
    reasons = {
        (row["id"] >> 32) * 100 + (row["id"] & 127): row["dropped_by"]
        for row in dropped.iter_rows(named=True)
    }
    assert reasons == {
        10: "empty",
        20: "positive_tokens",
        300: "exact_duplicate",
        390: "near_duplicate",
        350: "query_language",
        50: "evaluation_text",
    }
    assert kept.columns[:5] == ["id", "query", "positive", "category", "source"]
    for category in ("news", "web"):
        mine = pl.read_parquet(whole / "kept" / category / "*.parquet")
        assert mine.equals(kept.filter(pl.col("category") == category))
    stages = summary["funnel"]["stages"]
    assert stages[0] == "read"
    assert summary["funnel"]["total"][stages[-1]] == kept.height
    assert summary["funnel"]["categories"]["web"]["read"] == 200
    left = [summary["funnel"]["total"][stage] for stage in stages]
    assert left == sorted(left, reverse=True)
    assert sum(reason["dropped"] for reason in summary["reasons"]) == dropped.height
    assert {reason["reason"] for reason in summary["reasons"]} == set(reasons.values())
    assert all(reason["samples"] and reason["about"] for reason in summary["reasons"])
    assert summary["sources"]["pairs"]["languages"]["query"]["zh"] > 0.9
    assert not (whole / "work").exists()


def start(raw: Path, recipe: FilterRecipe, out: Path, runner: str = "native") -> subprocess.Popen:
    path = out.with_suffix(".yaml")
    path.write_text(recipe.model_dump_json())  # JSON is YAML
    script = out.with_name(f"run_{out.name}.py")  # a script called ray.py would stand in for Ray
    script.write_text(RUN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(script), str(path), str(out), runner], env=environment)


def test_a_killed_run_goes_on_to_the_same_output(raw, whole, tmp_path):
    out = tmp_path / "killed"
    process = start(raw, recipe_for(raw), out)
    while not any(out.glob("work/read/[0-9]*")):
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_ino for path in out.glob("work/read/[0-9]*/pairs.parquet")}
    assert 1 <= len(done) < 4
    filter_pairs(recipe_for(raw, engine={"keep_work": True}), out)
    assert all(path.stat().st_ino == inode for path, inode in done.items()), "finished shards were done again"
    assert_same_output(out, whole)


@pytest.mark.parametrize("step", ["check_step", "finish_step", "_find_duplicates"])
@pytest.mark.usefixtures("here")
def test_a_run_that_broke_in_a_later_step_goes_on_to_the_same_output(raw, whole, tmp_path, monkeypatch, step):
    intact = getattr(pipeline, step)

    def broken(run, number):
        if number >= 2 or step == "_find_duplicates":
            raise KeyboardInterrupt
        return intact(run, number)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, step, broken)
        with pytest.raises(KeyboardInterrupt):
            filter_pairs(recipe_for(raw), tmp_path / "broken")
    filter_pairs(recipe_for(raw), tmp_path / "broken")
    assert_same_output(tmp_path / "broken", whole)


def test_two_workers_give_the_output_of_one(raw, whole, tmp_path):
    filter_pairs(recipe_for(raw, engine={"workers": 2}), tmp_path / "two")
    assert_same_output(tmp_path / "two", whole)


def test_the_ray_runner_gives_the_output_of_the_native_one(raw, whole, tmp_path):
    pytest.importorskip("ray")
    assert start(raw, recipe_for(raw), tmp_path / "ray", "ray").wait() == 0
    assert_same_output(tmp_path / "ray", whole)


class Counting:
    """A teacher that gives a text a direction by its first character, and counts what it is asked."""

    def __init__(self) -> None:
        self.prompts = {"query": "", "passage": "", "sts": ""}
        self.texts = 0

    def encode(self, texts, *, prompt=""):
        self.texts += len(texts)
        angle = np.array([ord(text[0]) % 100 / 40 for text in texts])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


@pytest.mark.usefixtures("here")
def test_teacher_scores_stay_as_a_column_and_are_not_computed_again(raw, tmp_path):
    teacher = Counting()
    scored = Teacher(model="counting", min_score=0.4, max_rank=30)
    recipe = recipe_for(raw, teacher=scored, engine={"keep_work": True})
    filter_pairs(recipe, tmp_path / "out", teacher=teacher)
    kept, dropped, summary = output_of(tmp_path / "out")
    assert kept["score"].min() >= 0.4
    assert kept["rank"].max() <= 30
    low = dropped.filter(dropped_by="teacher_score")
    assert low["value"].max() < 0.4
    assert low.height > 20
    counts = summary["scores"]["categories"]
    scores = summary["funnel"]["total"]["decontamination"]
    assert sum(map(sum, counts.values())) == scores
    asked = teacher.texts
    for name in ("summary.json", "work/finish"):
        (tmp_path / "out" / name).rename(tmp_path / name.replace("/", "_"))
    filter_pairs(recipe, tmp_path / "out", teacher=teacher)
    assert teacher.texts == asked
    assert output_of(tmp_path / "out")[0].equals(kept)


@pytest.mark.usefixtures("here")
def test_a_run_is_not_resumed_with_another_teacher(raw, tmp_path):
    teachers = [make_tiny_model("bert", seed=seed) for seed in (0, 1)]
    folder = tmp_path / "teacher"
    teachers[0].save(folder)
    for name, recipe, teacher in (
        ("object", recipe_for(raw), teachers[0]),
        ("folder", recipe_for(raw, teacher=Teacher(model=str(folder))), None),
    ):
        filter_pairs(recipe, tmp_path / name, teacher=teacher)
    shutil.rmtree(folder)
    teachers[1].save(folder)
    with pytest.raises(UserError, match="holds a run with another recipe"):
        filter_pairs(recipe_for(raw), tmp_path / "object", teacher=teachers[1])
    with pytest.raises(UserError, match="holds a run with another teacher"):
        filter_pairs(recipe_for(raw, teacher=Teacher(model=str(folder))), tmp_path / "folder")


@pytest.mark.usefixtures("here")
def test_an_output_folder_belongs_to_one_process(raw, tmp_path):
    code = f"""
import sys, time
from conan_embed.files import lock_folder
with lock_folder({str(tmp_path / "out")!r}):
    print("locked", flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"in use by process {owner.pid} on"):
            filter_pairs(recipe_for(raw), tmp_path / "out")
    finally:
        owner.kill()
        owner.wait()


@pytest.mark.usefixtures("here")
def test_the_quality_stage_runs_where_the_recipe_has_examples(raw, tmp_path):
    rng = random.Random(7)
    for name, ending in (("good", ""), ("bad", "点击领取优惠红包")):
        texts = [sentence(rng) + ending for _ in range(100)]
        pl.DataFrame({"text": texts}).write_parquet(tmp_path / f"{name}.parquet")
    pl.DataFrame(
        {"query": ["今天的新闻是什么"], "positive": [sentence(rng) + "点击领取优惠红包"]}
    ).write_ndjson(tmp_path / "spam.jsonl")
    quality = {name: [str(tmp_path / f"{name}.parquet")] for name in ("good", "bad")}
    recipe = recipe_for(raw, quality=quality)
    spam = Source(path=str(tmp_path / "spam.jsonl"))
    recipe = recipe.model_copy(update={"sources": (*recipe.sources, spam)})
    filter_pairs(recipe, tmp_path / "out")
    _, dropped, summary = output_of(tmp_path / "out")
    assert "quality" in summary["funnel"]["stages"]
    assert "spam" in dropped.filter(dropped_by="low_quality")["source"].to_list()


@pytest.mark.usefixtures("here")
def test_a_finished_run_is_not_done_again(raw, tmp_path):
    first = filter_pairs(recipe_for(raw), tmp_path / "out")
    written = (tmp_path / "out" / "summary.json").stat().st_mtime_ns
    assert filter_pairs(recipe_for(raw), tmp_path / "out") == first
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns == written
    filter_pairs(recipe_for(raw), tmp_path / "out", resume=False)
    assert (tmp_path / "out" / "summary.json").stat().st_mtime_ns > written


@pytest.mark.usefixtures("here")
def test_another_recipe_is_refused(raw, tmp_path):
    filter_pairs(recipe_for(raw), tmp_path / "out")
    with pytest.raises(UserError, match=r"holds a run with another recipe \(rules\)"):
        filter_pairs(recipe_for(raw, rules={"copy": False}), tmp_path / "out")
    filter_pairs(recipe_for(raw, rules={"copy": False}), tmp_path / "out", resume=False)


@pytest.mark.usefixtures("here")
def test_other_evaluation_texts_are_another_run(raw, tmp_path):
    shutil.copytree(raw / "evaluation", tmp_path / "evaluation")
    recipe = recipe_for(raw, engine={"keep_work": True})
    recipe = recipe.model_copy(update={"decontaminate": Decontaminate(paths=(str(tmp_path / "evaluation"),))})
    filter_pairs(recipe, tmp_path / "out")
    pl.DataFrame({"text": ["更多的评测文本在这里"]}).write_parquet(tmp_path / "evaluation" / "more.parquet")
    with pytest.raises(UserError, match=r"holds a run with another list \(.*more\.parquet\)"):
        filter_pairs(recipe, tmp_path / "out")


def test_the_page_of_a_run_shows_each_reason_and_sample(whole):
    summary = output_of(whole)[2]
    page = html.unescape(report([whole]).read_text(encoding="utf-8"))
    assert f"{summary['rows']['kept']:,} of {summary['rows']['read']:,} pairs" in page
    for reason in summary["reasons"]:
        assert reason["reason"] in page and reason["about"] in page
        assert all(sample["query"] in page and sample["positive"] in page for sample in reason["samples"])


def test_a_folder_of_other_things_is_refused(raw, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and holds no filter run"):
        filter_pairs(recipe_for(raw), tmp_path, resume=False)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.usefixtures("here")
def test_an_empty_file_is_an_empty_run(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    recipe = FilterRecipe(sources=(Source(path=str(tmp_path / "a.jsonl")),), engine=Engine(workers=1))
    result = filter_pairs(recipe, tmp_path / "out")
    assert (result.read, result.kept) == (0, 0)
    assert not list((tmp_path / "out" / "kept").rglob("*.parquet"))
    assert "There were no pairs to read." in report([tmp_path / "out"]).read_text(encoding="utf-8")


def test_a_fault_in_a_shard_is_said_in_one_sentence(raw, tmp_path):
    pl.DataFrame({"query": ["a"], "reply": ["b"]}).write_parquet(tmp_path / "a.parquet")
    recipe = FilterRecipe(sources=(Source(path=str(tmp_path / "a.parquet")),), engine=Engine(workers=1))
    with pytest.raises(UserError, match="expected 'positive', "):
        filter_pairs(recipe, tmp_path / "out")

"""Each step of a shard: no pair is lost, a broken step leaves nothing, and what is counted is what is written."""

import hashlib
import json
import math
import random
import unicodedata
from pathlib import Path

import polars as pl
import pytest

from conan_embed.filtering.readers import Shard
from conan_embed.filtering.recipe import FilterRecipe, Source, Teacher
from conan_embed.filtering.stage import Outcome, split
from conan_embed.filtering.steps import (
    SCORE_BINS,
    Counts,
    Run,
    apply_stages,
    finish_step,
    read_result,
    read_step,
)
from tests.support.filter_steps import checked_run, random_dropped, random_pairs


class Below:
    """A stage that drops the pairs with a smaller id."""

    def __init__(self, name: str, bound: int) -> None:
        self.name, self.bound = name, bound

    def __call__(self, pairs: pl.DataFrame) -> Outcome:
        return split(pairs, self.name, {f"below_{self.bound}": (pl.col("id") < self.bound, pl.col("id"))})


def test_stages_follow_each_other_and_are_counted_by_category() -> None:
    counts, pairs = Counts(), random_pairs(60, seed=1)
    kept, dropped = apply_stages([Below("one", 20), Below("two", 10), Below("three", 30)], pairs, counts)
    assert kept["id"].to_list() == list(range(30, 60))
    assert [part["id"].to_list() for part in dropped] == [list(range(20)), [], list(range(20, 30))]
    assert counts.applied == {"below_20": 20, "below_30": 10}
    for stage, bound in (("one", 20), ("two", 20), ("three", 30)):
        left = [row["category"] for row in pairs.to_dicts() if row["id"] >= bound]
        assert counts.left[stage] == {name: left.count(name) for name in sorted(set(left))}
    assert list(counts.seconds) == ["one", "two", "three"]


def write_half(run: Run) -> None:
    with run.write("read", 1) as folder:
        (folder / "pairs.parquet").write_text("half")
        raise KeyboardInterrupt


def test_a_step_that_breaks_leaves_nothing_and_one_that_ends_is_done(tmp_path: Path) -> None:
    run = Run(
        FilterRecipe(sources=(Source(path="x"),)), tuple(Shard(n, 0, "x", None) for n in range(3)), tmp_path
    )
    with pytest.raises(KeyboardInterrupt):
        write_half(run)
    assert run.todo("read") == [0, 1, 2]
    assert not list(run.work.rglob("pairs.parquet"))
    with run.write("read", 1) as folder:
        (folder / "pairs.parquet").write_text("whole")
    assert run.todo("read") == [0, 2]
    assert run.todo("check") == [0, 1, 2]


def test_the_first_step_keeps_or_drops_each_row_and_counts_its_languages(tmp_path: Path) -> None:
    rows = [
        {"query": "如何备份数据库", "positive": "可以使用备份命令，把数据库写到另一个磁盘上。"},
        {
            "query": "How do I back up the database of my server?",
            "positive": "Call the backup command and wait until it is done.",
        },
        {"query": "<br>", "positive": "没有问题的答案在这里，已经写好了。"},
        {
            "query": "Wie sichere ich die Daten auf einer anderen Platte?",
            "positive": "可以使用备份命令，写到另一个磁盘上。",
        },
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    recipe = FilterRecipe(sources=(Source(path=str(path), category="web"),))
    run = Run(recipe, (Shard(0, 0, str(path), None),), tmp_path / "out")
    progress = read_step(run, 0)
    kept, dropped = (
        pl.read_parquet(run.folder("read", 0) / f"{name}.parquet") for name in ("pairs", "dropped")
    )
    assert (progress.rows, progress.kept) == (4, 2)
    assert sorted([*kept["id"], *dropped["id"]]) == [0, 1, 2, 3]
    assert dict(dropped.select("id", "dropped_by").rows()) == {2: "empty", 3: "query_language"}
    counts = json.loads((run.folder("read", 0) / "counts.json").read_text())
    assert counts["left"]["read"] == {"web": 4}
    assert counts["left"]["language"] == {"web": 2}
    assert counts["languages"]["query"] == {"pairs\tde": 1, "pairs\ten": 1, "pairs\tzh": 1}, (
        "an empty side has none"
    )
    assert [bad["rows"] for bad in counts["bad_rows"]] == [1]


@pytest.mark.parametrize("with_teacher", [False, True])
def test_a_finished_shard_holds_each_pair_once_and_what_it_says_of_them_is_true(
    tmp_path: Path, with_teacher: bool
) -> None:
    rng = random.Random(3)
    pairs, dropped = random_pairs(200, seed=3), random_dropped(150, seed=4, first=1000)
    middles = [-1 + 2 * (rng.randrange(SCORE_BINS) + rng.uniform(0.1, 0.9)) / SCORE_BINS for _ in range(197)]
    scores = [-1.0, 1.0, 1.0001, *middles]
    teacher = Teacher(model="老师", min_score=0.1) if with_teacher else Teacher()
    run = checked_run(tmp_path, [(pairs, dropped, scores)], teacher=teacher, samples=3)
    progress = finish_step(run, 0)
    result = read_result(run, 0)
    expected_kept = [n for n in range(200) if not with_teacher or scores[n] >= 0.1]
    files = sorted((tmp_path / "kept").rglob("*.parquet"))
    assert [file.parent.name for file in files] == ["_", "web_page", "知识_问答"], (
        "categories as names of folders"
    )
    kept = pl.concat([pl.read_parquet(file) for file in files]).sort("id")
    assert kept["id"].to_list() == expected_kept
    assert kept.select("query", "category").rows() == pairs[expected_kept].select("query", "category").rows()
    gone = pl.read_parquet(tmp_path / "dropped/00000.parquet")
    assert gone["id"].to_list() == sorted({*range(200), *dropped["id"]} - set(expected_kept))
    assert (progress.rows, progress.kept) == (200, len(expected_kept))
    sources = [pairs["source"][n] for n in expected_kept]
    assert result.kept_sources == {name: sources.count(name) for name in sorted(set(sources))}

    keys = [tuple(row[name] for name in ("stage", "dropped_by", "category")) for row in gone.to_dicts()]
    assert sorted(map(tuple, result.dropped)) == sorted((*key, keys.count(key)) for key in set(keys))
    histogram: dict[str, list[int]] = {}
    for category, score in zip(pairs["category"], scores, strict=True) if with_teacher else ():
        bins = histogram.setdefault(category, [0] * SCORE_BINS)
        bins[min(SCORE_BINS - 1, max(0, math.floor((score + 1) / 2 * SCORE_BINS)))] += 1
    assert result.scores == histogram


def test_samples_are_those_whose_ids_hash_lowest_with_the_beginning_of_their_texts(tmp_path: Path) -> None:
    dropped = random_dropped(90, seed=5, first=0).with_columns(positive=pl.lit("长" * 1000))
    run = checked_run(tmp_path, [(random_pairs(0, seed=0), dropped, [])], samples=2)
    finish_step(run, 0)
    samples = read_result(run, 0).samples
    for reason in set(dropped["dropped_by"]):
        ids = dropped.filter(dropped_by=reason)["id"].to_list()
        lowest = sorted(ids, key=lambda i: hashlib.blake2b(str(i).encode(), digest_size=6).digest())[:2]
        mine = [sample for sample in samples if sample["dropped_by"] == reason]
        assert [sample["id"] for sample in mine] == lowest
        assert all(sample["positive"] == "长" * 400 for sample in mine)
    assert not (tmp_path / "kept").exists()


def test_categories_whose_names_many_disks_take_for_one_share_a_folder(tmp_path: Path) -> None:
    """On a disk that tells neither cases nor spellings of accents apart, nothing is overwritten."""
    names = ["News", "news", "NEWS", "caf\u00e9", "cafe\u0301", "web-page", "Web page"]
    pairs = random_pairs(len(names), seed=1).with_columns(category=pl.Series(names))
    finish_step(checked_run(tmp_path, [(pairs, random_dropped(1, seed=2, first=100), [0.0] * len(names))]), 0)
    files = sorted((tmp_path / "kept").rglob("*.parquet"))
    folders = [unicodedata.normalize("NFC", file.parent.name).casefold() for file in files]
    assert folders == ["caf\u00e9", "news", "web_page"]
    kept = pl.concat([pl.read_parquet(file) for file in files]).sort("id")
    assert kept["category"].to_list() == names

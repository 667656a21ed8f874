"""The summary of a run is that of all its pairs, however they are cut into shards."""

import hashlib
from collections import Counter
from pathlib import Path

import polars as pl

from conan_embed.files import write_json
from conan_embed.filtering.duplicates import JoinResult
from conan_embed.filtering.recipe import Teacher
from conan_embed.filtering.steps import SCORE_BINS, finish_step
from conan_embed.filtering.summarise import ABOUT, STAGES, summarise
from conan_embed.filtering.summary import Summary, read_summary
from tests.support.filter_steps import checked_run, random_dropped, random_pairs

TEACHER = Teacher(model="老师", min_score=0.0)
PAIRS, DROPPED = random_pairs(120, seed=1), random_dropped(180, seed=2, first=500)
SCORES = [((number * 37) % 100 + 0.5) / 50 - 1 for number in range(120)]


def summary_of(
    folder: Path, shards: int, *, join: JoinResult | None = None, teacher: Teacher = TEACHER
) -> Summary:
    """Return the summary of the same pairs, cut into so many shards."""
    cuts = [slice(n * 120 // shards, (n + 1) * 120 // shards) for n in range(shards)]
    parts = [(PAIRS[cut], DROPPED[n::shards], SCORES[cut]) for n, cut in enumerate(cuts)]
    run = checked_run(folder, parts, teacher=teacher, samples=4)
    for number in range(shards):
        finish_step(run, number)
    return summarise(run, seconds=10.0, workers=2, join=join)


def hash_of(number: int) -> bytes:
    return hashlib.blake2b(str(number).encode(), digest_size=6).digest()


def test_shards_make_no_difference(tmp_path: Path) -> None:
    one, four = (summary_of(tmp_path / str(shards), shards) for shards in (1, 4))
    for key in ("rows", "funnel", "sources", "scores", "duplicates", "bad_rows"):
        assert getattr(one, key) == getattr(four, key), key
    for left, right in zip(one.reasons, four.reasons, strict=True):
        assert left.samples == right.samples
        assert (left.reason, left.dropped, dict(left.categories)) == (
            right.reason,
            right.dropped,
            dict(right.categories),
        )
    assert four.speed.stages["rules"].seconds == 4 * one.speed.stages["rules"].seconds == 8.0
    assert four.speed.stages["rules"].rows_per_second == round(300 / 8.0)


def test_what_is_summed_up_is_what_counting_all_pairs_gives(tmp_path: Path) -> None:
    summary = summary_of(tmp_path, 3)
    low = [
        row | {"dropped_by": "teacher_score"}
        for row, s in zip(PAIRS.to_dicts(), SCORES, strict=True)
        if s < 0
    ]
    every, gone = [*PAIRS.to_dicts(), *DROPPED.to_dicts()], [*low, *DROPPED.to_dicts()]
    assert (summary.rows.read, summary.rows.kept, summary.rows.dropped) == (300, 300 - len(gone), len(gone))
    assert summary.funnel.stages == ["read", "duplicates", "teacher"]
    assert summary.funnel.total == {"read": 300, "duplicates": 120, "teacher": 300 - len(gone)}
    read = Counter(row["category"] for row in every)
    assert {name: counts["read"] for name, counts in summary.funnel.categories.items()} == read

    reasons = Counter(row["dropped_by"] for row in gone)
    assert {reason.reason: reason.dropped for reason in summary.reasons} == reasons
    assert [STAGES.index(reason.stage) for reason in summary.reasons] == [0, 2, 4, 8]
    for reason in summary.reasons:
        mine = [row for row in gone if row["dropped_by"] == reason.reason]
        assert reason.categories == Counter(row["category"] for row in mine)
        assert reason.applied == reason.dropped and reason.about == ABOUT[reason.reason]
        ids = sorted((row["id"] for row in mine), key=hash_of)
        assert [sample.id for sample in reason.samples] == ids[:4]

    for source, counts in summary.sources.items():
        rows = [row for row in every if row["source"] == source]
        languages = Counter(row["query_language"] for row in rows)
        assert (counts.read, counts.kept) == (
            len(rows),
            len(rows) - sum(row["source"] == source for row in gone),
        )
        assert counts.languages["query"] == {code: round(n / len(rows), 4) for code, n in languages.items()}
    assert set(summary.sources) == {"one", "two\ttabs"}
    assert summary.scores is not None
    assert len(summary.scores.edges) == SCORE_BINS + 1
    assert sum(sum(bins) for bins in summary.scores.categories.values()) == 120


def test_what_did_not_run_is_not_in_the_summary_and_the_rest_is_read_again(tmp_path: Path) -> None:
    plain = summary_of(tmp_path / "a", 1, teacher=Teacher())
    assert plain.scores is None and plain.duplicates is None
    assert not {"scores", "duplicates"} & set(plain.to_json())
    join = JoinResult(compared=9, similar=5, undecided=0, dropped={}, seconds=1.5)
    joined = summary_of(tmp_path / "b", 1, join=join)
    assert joined.duplicates is not None and joined.duplicates.similar == 5
    assert joined.speed.stages["duplicates"].seconds == 1.5
    for summary in (plain, joined):
        write_json(tmp_path / "summary.json", summary.to_json())
        assert read_summary(tmp_path / "summary.json") == summary


def test_a_run_without_pairs_has_a_summary(tmp_path: Path) -> None:
    run = checked_run(tmp_path, [(PAIRS.clear(), DROPPED.clear(), [])])
    finish_step(run, 0)
    summary = summarise(run, seconds=0.0, workers=1, join=None)
    assert (summary.rows.read, summary.reasons, summary.sources) == (0, [], {})
    assert summary.speed.rows_per_second is None
    assert summary.funnel.total == {"read": 0, "duplicates": 0}
    assert pl.read_parquet(tmp_path / "dropped/00000.parquet").is_empty()

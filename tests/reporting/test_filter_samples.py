"""Dropped pairs to read: those of every reason, and beside a duplicate the pair that it resembles."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from conan_embed.filtering.summary import Funnel, Reason, Rows, Sample, Speed, Summary
from conan_embed.reporting.filter_samples import samples
from conan_embed.reporting.filters import Filtered

PAIR = Sample("问题？", "</script>", "web", "docs", None, None, 5)


def a_filtered(folder: Path, *reasons: Reason) -> Filtered:
    summary = Summary(Rows(9, 4, 5), Speed(1.0, None, 1, {}), Funnel([], {}, {}), {}, list(reasons))
    return Filtered(folder, summary, {}, [])


def a_reason(name: str, *pairs: Sample, dropped: int = 1_234) -> Reason:
    return Reason("rules", name, f"about {name}", dropped, dropped, {"web": dropped}, list(pairs))


def write(path: Path, pairs: dict[int, tuple[str, str]], **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": number, "query": query, "positive": text, **more} for number, (query, text) in pairs.items()
    ]
    pl.DataFrame(rows, schema_overrides={"id": pl.UInt64}).write_parquet(path)


def test_reasons_that_dropped_most_come_first_and_those_without_samples_nowhere(tmp_path):
    found = samples(
        a_filtered(
            tmp_path,
            a_reason("few", PAIR, dropped=3),
            a_reason("none"),
            a_reason("most", PAIR, PAIR, dropped=9_999),
        )
    )
    assert [(each.name, each.about, each.of) for each in found] == [
        ("most", "about most", "2 of 9,999"),
        ("few", "about few", "1 of 3"),
    ]
    assert [(pair.query, pair.positive, pair.original) for pair in found[1].pairs] == [
        ("问题？", "</script>", None)
    ]
    assert samples(a_filtered(tmp_path)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "web · docs · pair 5"),
        ({"category": "docs"}, "docs · pair 5"),
        ({"value": 0.123456}, "value 0.1235 · web · docs · pair 5"),
        ({"value": 0.0}, "value 0 · web · docs · pair 5"),
        ({"value": 12345.0, "duplicate_of": 0}, "value 1.234e+04 · web · docs · pair 5 · like pair 0"),
    ],
)
def test_a_pair_says_its_value_category_source_and_number(tmp_path, changes, words):
    [reason] = samples(a_filtered(tmp_path, a_reason("rule", replace(PAIR, **changes))))
    assert reason.pairs[0].meta == words


def test_duplicates_stand_with_what_they_resemble_wherever_it_lies(tmp_path):
    write(tmp_path / "kept/docs/00000.parquet", {0: ("first", "positive"), 1: ("other", "pair")}, more=1)
    write(tmp_path / "kept/网页/00001.parquet", {2**40: ("长" * 1_000, "b" * 400)})
    write(tmp_path / "dropped/00000.parquet", {7: ("dropped", "too")}, dropped_by="copy", value=0.5)
    pairs = [replace(PAIR, duplicate_of=number) for number in (0, 2**40, 7, 0, 99, None)]
    [reason] = samples(a_filtered(tmp_path, a_reason("near_duplicate", *pairs)))
    originals = [
        pair.original and (pair.original["query"], pair.original["positive"]) for pair in reason.pairs
    ]
    assert originals == [
        ("first", "positive"),
        ("长" * 400, "b" * 400),
        ("dropped", "too"),
        ("first", "positive"),
        None,
        None,
    ]


@pytest.mark.parametrize("content", [None, b"", b"PAR1 cut short"])
def test_originals_whose_files_cannot_be_read_are_left_out(tmp_path, content):
    if content is not None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "00000.parquet").write_bytes(content)
    write(tmp_path / "dropped/00000.parquet", {7: ("still", "here")})
    pairs = replace(PAIR, duplicate_of=0), replace(PAIR, duplicate_of=7)
    [reason] = samples(a_filtered(tmp_path, a_reason("duplicate", *pairs)))
    assert [pair.original and pair.original["query"] for pair in reason.pairs] == [None, "still"]

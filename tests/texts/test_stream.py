"""The order of streamed pairs against its definition; windows; bad rows and bad shards."""

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import conan_embed.texts.stream as stream_module
from conan_embed.errors import UserError
from conan_embed.recipes.data import RetrievalData
from conan_embed.texts.stream import PairStream


def write(path, texts, group=4):
    path.parent.mkdir(exist_ok=True)
    frame = pl.DataFrame({"title": [f"q {text}" for text in texts], "answer": texts})
    pq.write_table(frame.to_arrow(), path, row_group_size=group)
    return path


def opened(folder, *, window=8, on_bad_row="error", **settings):
    return PairStream(RetrievalData(name="s", path=str(folder), **settings), window, on_bad_row)


def named(folder, **settings):
    return opened(folder, columns={"query": "title"}, **settings)


@pytest.fixture
def folder(tmp_path):
    """A function that writes shards of these sizes, row groups of four rows; texts are numbered through."""

    def make(sizes):
        start = 0
        for number, size in enumerate(sizes):
            write(tmp_path / "shards" / f"{number:03}.parquet", [str(start + i) for i in range(size)])
            start += size
        return tmp_path / "shards"

    return make


def texts(frame):
    assert frame["query"].to_list() == [f"q {found[0]}" for found in frame["positive"].to_list()]
    return [int(found[0]) for found in frame["positive"].to_list()]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 13), min_size=1, max_size=5),
    st.integers(1, 20),
    st.integers(0, 3),
    st.integers(1, 9),
)
def test_each_epoch_holds_every_row_once_and_a_position_says_which(
    folder, tmp_path, sizes, window, seed, count
):
    for old in tmp_path.glob("shards/*"):
        old.unlink()
    stream = named(folder(sizes), window=window)
    total = sum(sizes)
    assert len(stream) == total
    whole = stream.take(np.arange(3 * total), seed)
    assert whole["visit"].to_list() == list(range(3 * total))
    epochs = np.array(texts(whole)).reshape(3, total)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(total))
    # Any cut of the positions, in any order, from a stream that has read nothing yet.
    starts = list(range(0, 3 * total, count))[::-1]
    again = named(tmp_path / "shards", window=window)
    parts = {
        start: texts(again.take(np.arange(start, min(start + count, 3 * total)), seed)) for start in starts
    }
    assert [text for start in sorted(parts) for text in parts[start]] == epochs.ravel().tolist()


def test_rows_are_shuffled_within_windows_of_whole_row_groups(folder):
    stream = named(folder([16] * 25), window=40)
    first, second = np.array(texts(stream.take(np.arange(800), 7))).reshape(2, 400)
    assert first.tolist() != second.tolist()
    for epoch in (first, second):
        # 40 rows are ten row groups of four; the next 40 are of other groups.
        groups = [set((part // 4).tolist()) for part in epoch.reshape(10, 40)]
        assert all(len(found) == 10 for found in groups)
        assert len(set.union(*groups)) == 100
        # Row groups come from all over, and their rows do not stay together.
        assert all(max(found) - min(found) > 40 for found in groups)
        neighbours = np.abs(np.diff(epoch)) == 1
        assert neighbours.mean() < 0.1
    other = texts(stream.take(np.arange(400), 8))
    assert other != first.tolist()


def test_only_the_windows_in_use_are_read_and_held(folder, monkeypatch):
    stream = named(folder([8] * 12), window=16)
    read = []
    original = PairStream._read
    monkeypatch.setattr(
        PairStream, "_read", lambda self, group: (read.append(int(group)), original(self, group))[1]
    )
    assert not read
    for start in range(0, 96, 3):
        stream.take(np.arange(start, min(start + 3, 96)), 0)
        assert sum(len(window.good) for window in stream._windows.values()) <= 16 * stream_module._MAX_WINDOWS
    assert sorted(read) == list(range(24))  # each row group once


def test_a_limit_counts_rows(folder):
    stream = named(folder([6, 6, 6]), limit=9)
    assert len(stream) == 9
    assert sorted(texts(stream.take(np.arange(9), 0))) == list(range(9))


def test_identity_tells_other_shards(folder, tmp_path):
    stream = named(folder([6, 6]))
    assert stream.identity() == named(tmp_path / "shards").identity()
    assert stream.identity() != named(tmp_path / "shards", limit=11).identity()
    assert stream.identity() != named(tmp_path / "shards", window=4).identity()
    write(tmp_path / "shards" / "more.parquet", ["12"])
    assert stream.identity() != named(tmp_path / "shards").identity()


def test_bad_rows(tmp_path, capsys):
    path = tmp_path / "bad.parquet"
    frame = pl.DataFrame(
        {"query": ["a", "b", None, "d", "e", "f"], "positive": ["1", "2", "3", "4", " ", "6"]}
    )
    pq.write_table(frame.to_arrow(), path, row_group_size=2)
    with pytest.raises(UserError, match=r"bad\.parquet: row 3: column 'query': found null, expected a text"):
        opened(path, window=100).take(np.arange(6), 0)
    stream = opened(path, window=100, on_bad_row="drop")
    for start in (0, 6):  # said once, not once an epoch
        taken = stream.take(np.arange(start, start + 6), 0)
        assert sorted(taken["query"]) == ["a", "b", "d", "f"]
        assert set(taken["visit"]) < set(range(start, start + 6))
    said = capsys.readouterr().err
    assert said.count("dropped 1 of 2 rows (empty text: 1); the first is row 3: column 'query'") == 1
    assert said.count("the first is row 5: column 'positive': found a text with nothing") == 1


def test_shards_that_cannot_be_streamed(tmp_path, folder):
    lines = tmp_path / "pairs.jsonl"
    lines.write_text('{"query": "a", "positive": "b"}\n')
    with pytest.raises(UserError, match=r"pairs\.jsonl: data\.stream reads Parquet shards only"):
        opened(lines)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read"):
        opened(broken)
    with pytest.raises(UserError, match="expected 'headline'"):
        opened(folder([3]), columns={"query": "headline"})
    pq.write_table(pl.DataFrame({"query": [], "positive": []}).to_arrow(), tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="found no rows"):
        opened(tmp_path / "empty.parquet")


def test_a_shard_that_changes_under_way_is_noticed(folder):
    shards = folder([8, 8])
    stream = named(shards)
    write(shards / "000.parquet", ["other"])
    with pytest.raises(UserError, match=r"000\.parquet: found 1 rows in 1 row groups, expected 8 in 2"):
        stream.take(np.arange(16), 0)

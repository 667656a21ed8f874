"""The parts of several batches become one collection: against all rows in memory, one after the other."""

import random
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conan_embed.documents.collection import Finished, finish
from conan_embed.documents.held_out import HeldOutTexts, split_pairs
from conan_embed.documents.parts import PAIRS, PASSAGES
from conan_embed.errors import UserError

Row = dict[str, object]


def texts_of(seed: int) -> list[tuple[int, str]]:
    """Return texts with their keys, Chinese and English, no two of them alike."""
    rng = random.Random(seed)
    alphabets = ("abcdefghij     ", "的一是不了人我在有他")
    return [(key, "".join(rng.choices(alphabets[key % 2], k=80))) for key in range(1, 600)]


def random_parts(seed: int, documents: int = 40) -> tuple[list[Row], list[Row]]:
    """Return rows of passages and of pairs; some texts stand in several documents."""
    rng, texts = random.Random(seed), texts_of(seed)
    passages: list[Row] = []
    pairs: list[Row] = []
    for document in range(documents):
        for section in range(rng.randint(1, 4)):
            for line in range(rng.randint(1, 2)):
                key, text = rng.choice(texts)
                rest = text[40:] if rng.random() < 0.2 else None
                place = {"file": f"d{document}.md", "line": line, "document": document, "section": section}
                shared = {"title": "标题", "headings": "A > B", "num_tokens": len(text)}
                doc_id = f"d{document}.md:{section}.{line}"
                passages.append({"doc_id": doc_id, "text": text, "key": key, "rest": rest, **place, **shared})
                for _ in range(rng.randint(0, 2)):
                    query_key = rng.randrange(2000)
                    query = f"Question {query_key}?"
                    kind = rng.choice(["heading", "question", "sentence"])
                    asked = {"query": query, "positive": rest or text}
                    keys = {"query_key": query_key, "passage_key": key, "kind": kind, "heading": "A"}
                    pairs.append({**asked, **keys, **place})
    return passages, pairs


def write_parts(folder: Path, rows: list[Row], name: str, schema: pa.Schema, files: int, group: int) -> None:
    folder.mkdir(exist_ok=True)
    size = -(-len(rows) // files) or 1
    for number in range(files):
        part = rows[number * size : (number + 1) * size]
        table = pa.Table.from_pylist(part, schema)
        pq.write_table(table, folder / f"{name}-{number:05d}.parquet", row_group_size=group)


def run(
    folder: Path,
    passages: list[Row],
    pairs: list[Row],
    *,
    hold_out: float = 0.2,
    files: int = 3,
    group: int = 7,
) -> Finished:
    write_parts(folder / "parts", passages, "passages", PASSAGES, files, group)
    write_parts(folder / "parts", pairs, "pairs", PAIRS, files, group)
    return finish(folder / "parts", folder, "set", hold_out=hold_out, seed=3)


def judged(folder: Path, role: str) -> set[tuple[str, str, str]]:
    """Return (question, id, text) of an evaluation set."""
    corpus, queries, qrels = (
        {
            row[0]: row[1]
            for row in pl.read_parquet(folder / role / "retrieval/set" / f"{name}.parquet").rows()
        }
        if name != "qrels"
        else pl.read_parquet(folder / role / "retrieval/set/qrels.parquet").rows()
        for name in ("corpus", "queries", "qrels")
    )
    return {(queries[query], doc_id, corpus[doc_id]) for query, doc_id, _ in qrels}


@pytest.mark.parametrize("seed", range(3))
def test_a_collection_is_that_of_all_rows_at_once(tmp_path: Path, seed: int) -> None:
    passages, pairs = random_parts(seed)
    result = run(tmp_path, passages, pairs)
    split = split_pairs(pl.DataFrame(pairs, schema_overrides={"query_key": pl.UInt64}), 0.2, 3)
    roles = split.role.to_list()
    whole = ("document",) if result.unit == "document" else ("document", "section")
    units = {
        tuple(pair[n] for n in whole) for pair, role in zip(pairs, roles, strict=True) if role != "train"
    }
    keys = {row["key"] for row in passages if tuple(row[n] for n in whole) in units}
    first: dict[object, Row] = {}
    for row in passages:
        first.setdefault(row["key"], row)
    written = pl.read_parquet(tmp_path / "passages.parquet")
    assert written.select("doc_id", "text", "document", "split").rows() == [
        (row["doc_id"], row["text"], "标题", "held_out" if row["key"] in keys else "train")
        for row in first.values()
    ]
    assert (result.passages, result.tokens) == (
        len(first),
        sum(len(str(row["text"])) for row in first.values()),
    )

    held_out: dict[str, set[tuple[object, ...]]] = {"development": set(), "test": set()}
    for pair, role in zip(pairs, roles, strict=True):
        if role in held_out:
            row = first[pair["passage_key"]]
            held_out[role].add((pair["query"], row["doc_id"], row["rest"] or row["text"]))
    assert {role: judged(tmp_path, role) for role in held_out} == held_out
    assert all(held_out.values())
    assert result.questions == {role: len({query for query, *_ in held_out[role]}) for role in held_out}

    training = [pair for pair, role in zip(pairs, roles, strict=True) if role == "train"]
    asked = [pair for pair, role in zip(pairs, roles, strict=True) if role in held_out]
    near = HeldOutTexts(pl.Series([str(pair[side]) for pair in asked for side in ("query", "positive")]))
    is_near = near.near(pl.Series([p["query"] for p in training])) | near.near(
        pl.Series([p["positive"] for p in training])
    )
    stays = [pair for pair, drop in zip(training, is_near, strict=True) if not drop]
    rows = pl.read_parquet(tmp_path / "pairs.parquet").select("query", "positive", "doc_id", "kind").rows()
    assert rows == [
        (pair["query"], pair["positive"], first[pair["passage_key"]]["doc_id"], pair["kind"])
        for pair in stays
    ]
    assert result.near_duplicates == int(is_near.sum()) > 0
    assert result.pairs == {kind: sum(pair["kind"] == kind for pair in stays) for kind in result.pairs}
    assert list(result.pairs.values()) == sorted(result.pairs.values(), reverse=True)


def test_files_and_row_groups_make_no_difference(tmp_path: Path) -> None:
    passages, pairs = random_parts(5)
    results = []
    for number, (files, group) in enumerate([(1, 10_000), (6, 3)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        results.append(run(folder, passages, pairs, files=files, group=group))
    assert results[0] == results[1]
    for name in ("passages", "pairs", "test/retrieval/set/queries", "development/retrieval/set/corpus"):
        one, two = (pl.read_parquet(tmp_path / number / f"{name}.parquet") for number in "01")
        assert one.equals(two)


def test_a_batch_without_passages_or_pairs_is_no_trouble(tmp_path: Path) -> None:
    passages, pairs = random_parts(6, documents=2)
    pairs = pairs[:1]
    result = run(tmp_path, passages, pairs, hold_out=0.0, files=4)
    assert sum(result.pairs.values()) == 1
    assert result.questions == {"development": 0, "test": 0}
    assert not (tmp_path / "test").exists()
    assert set(pl.read_parquet(tmp_path / "passages.parquet")["split"]) == {"train"}


def test_passages_without_a_pair_are_refused(tmp_path: Path) -> None:
    passages, _ = random_parts(6)
    with pytest.raises(UserError, match=f"found {len(passages)} passages, but nothing that makes a pair"):
        run(tmp_path, passages, [])
    assert not (tmp_path / "passages.parquet").exists()

"""Copies of documents, blocks and headings that repeat, against counting by hand."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from conan_embed.documents import boilerplate, containment
from conan_embed.documents.boilerplate import find_repeated


def write_blocks(folder, documents):
    """Write documents, each a list of (heading, kind, text), a section per block, as two batches."""
    rows = [
        {
            "document": number,
            "file": f"{number}.md",
            "title": "",
            "section": position,
            "headings": [heading] if heading else [],
            "section_kind": "section",
            "kind": kind,
            "text": text,
            "key": hash(text) & 0xFFFF_FFFF,
        }
        for number, blocks in enumerate(documents)
        for position, (heading, kind, text) in enumerate(blocks)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"headings": pl.List(pl.String), "key": pl.UInt64})
    files = [folder / "0.parquet", folder / "1.parquet"]
    half = len(documents) // 2
    frame.filter(pl.col("document") < half).write_parquet(files[0])
    frame.filter(pl.col("document") >= half).write_parquet(files[1])
    return files


@pytest.mark.parametrize("seed", range(5))
def test_against_counting(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(containment, "MIN_COLLECTED", 100)  # short documents of few texts collect each other
    generator = np.random.default_rng(seed)
    documents = [
        [
            (
                f"H{generator.integers(4)}",
                str(generator.choice(["text", "list", "code"])),
                f"t{generator.integers(12)}",
            )
            for _ in range(generator.integers(1, 4))
        ]
        for _ in range(40)
    ]
    found = find_repeated(write_blocks(tmp_path, documents))
    seen, copies, unique = set(), [], []
    for number, blocks in enumerate(documents):
        content = tuple(sorted((heading, text) for heading, _, text in blocks))
        (copies if content in seen else unique).append(number)
        seen.add(content)
    assert found.copies.tolist() == copies
    assert found.num_documents == len(unique)
    holders = Counter()
    for number in unique:
        holders.update({text for _, kind, text in documents[number] if kind != "code"})
    enough = max(boilerplate.MIN_DOCUMENTS, boilerplate.MIN_SHARE * len(unique))
    frequent = {text for text, count in holders.items() if count >= enough}
    assert found.blocks.tolist() == sorted(hash(text) & 0xFFFF_FFFF for text in frequent)
    assert {*found.examples} <= frequent
    headings = Counter(heading.lower() for number in unique for heading, _, _ in documents[number])
    assert found.headings == {heading: count for heading, count in headings.items() if count > 1}
    within = Counter((number, heading.lower()) for number in unique for heading, _, _ in documents[number])
    assert found.headings_within == {key for key, count in within.items() if count > 1}


def test_many_documents_are_enough_however_small_their_share(tmp_path, monkeypatch):
    monkeypatch.setattr(boilerplate, "MANY_DOCUMENTS", 6)
    documents = [[("", "text", f"own {number}"), ("", "text", "footer")] for number in range(6)]
    documents += [[("", "text", f"other {number}")] for number in range(200)]
    assert find_repeated(write_blocks(tmp_path, documents)).examples == ["footer"]
    documents = [[("", "text", f"own {number}"), ("", "text", "footer")] for number in range(4)]
    assert not find_repeated(write_blocks(tmp_path, documents)).examples

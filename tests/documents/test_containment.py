"""Documents whose text stands in others: collections and second formats, and nothing else."""

import numpy as np
import polars as pl
import pytest

from conan_embed.documents.build import build_pairs
from conan_embed.documents.containment import find_contained


def blocks(documents):
    """Rows of documents given as (file, texts)."""
    rows = [
        {"document": number * 7, "file": file, "text": text, "key": hash(text) & 0xFFFF_FFFF}
        for number, (file, texts) in enumerate(documents)
        for text in texts
    ]
    return pl.DataFrame(rows, schema_overrides={"key": pl.UInt64}).lazy()


def page(number, count=5):
    return [f"Block {i} of page {number}. " * 4 for i in range(count)]


def contained(documents):
    found = find_contained(blocks(documents))
    return (found.collections // 7).tolist(), (found.formats // 7).tolist()


def test_a_page_that_collects_others_is_left_out():
    pages = [(f"p{i}.html", page(i)) for i in range(6)]
    everything = [text for _, texts in pages for text in texts]
    assert contained([*pages[:3], ("print.html", ["Print.", *everything]), *pages[3:]]) == ([3], [])
    more = [f"Its own text {i}. " * 20 for i in range(2)]
    assert contained([*pages, ("book.html", [*everything, *more])]) == ([], [])  # much is in no other


def test_a_summary_of_two_pages_and_an_excerpt_stay():
    pages = [(f"p{i}.md", page(i)) for i in range(4)]
    assert contained([*pages, ("two.md", page(0) + page(1))]) == ([], [])
    assert contained([*pages, ("excerpts.md", [page(i)[0] for i in range(4)])]) == ([], [])


@pytest.mark.parametrize("first", [True, False])
def test_a_second_format_of_a_file_is_left_out(first):
    markdown, html = ("docs/fs.md", page(0)), ("docs/fs.html", [*page(0)[:3], "Read otherwise."])
    documents = [markdown, html] if first else [html, markdown]
    assert contained(documents) == ([], [1 if first else 0])
    assert contained([("docs/fs.md", page(0)), ("docs/fs.html", page(1))]) == (
        [],
        [],
    )  # only the name is the same
    assert contained([("a/fs.md", page(0)), ("b/fs.html", page(0))]) == ([], [])
    assert contained([("docs/fs.md", page(0)), ("docs/fs.html", page(0)), ("docs/fs.html", page(2))]) == (
        [],
        [],
    )


def test_blocks_of_many_documents_tell_none_apart():
    documents = [(f"docs/p{i}.md", ["The same notice everywhere. " * 20, f"Own {i}."]) for i in range(150)]
    assert contained(documents) == ([], [])


def test_what_was_left_out_is_said(tmp_path):
    for number in range(25):
        sections = [f"## Topic {number} {i}\n\n{text}" for i, text in enumerate(page(number))]
        (tmp_path / f"p{number}.md").write_text(f"# Page {number}\n\n" + "\n\n".join(sections))
    pages = sorted(tmp_path.glob("*.md"))
    (tmp_path / "p0.txt").write_text("\n\n".join(page(0)))
    (tmp_path / "print.md").write_text("# All\n\n" + "\n\n".join(path.read_text() for path in pages))
    result = build_pairs([tmp_path], tmp_path / "out")
    assert (result.documents, result.collections, result.formats) == (25, 1, 1)
    lines = " ".join(result.lines())
    assert "1 documents that only repeat other documents (such as" in lines and "print.md" in lines
    assert "in another format, too" in lines and "p0.txt" in lines
    assert result.questions["test"] > 20
    assert np.isclose(result.largest_group, 5 / 125, atol=0.02)

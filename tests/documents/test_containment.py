"""Documents whose text stands in others: collections and second formats, and nothing else."""

import random

import numpy as np
import polars as pl
import pytest

from conan_embed.documents.build import PairSettings, build_pairs
from conan_embed.documents.containment import find_contained


def blocks(documents):
    """Rows of documents given as (file, texts), or (file, {question: answers})."""
    rows = [
        {"document": number * 7, "file": file, "text": text, "key": hash(text) & 0xFFFF_FFFF}
        | (
            {"headings": [question], "section_kind": "faq"}
            if question
            else {"headings": [], "section_kind": "section"}
        )
        for number, (file, content) in enumerate(documents)
        for question, texts in (content if isinstance(content, dict) else {"": content}).items()
        for text in texts
    ]
    types = {"key": pl.UInt64, "headings": pl.List(pl.String)}
    return pl.DataFrame(rows, schema_overrides=types).lazy()


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


def test_a_question_with_the_answers_of_others_is_no_collection_and_a_page_of_questions_is():
    answers = page(0, 8)
    single = [(f"faq.jsonl#{i + 1}", {f"Question {i}?": [answer]}) for i, answer in enumerate(answers)]
    several = [
        ("faq.jsonl#9", {"Which matter?": answers[:4]}),
        ("faq.jsonl#10", {"Which others?": answers[3:7]}),
    ]
    assert contained([*single, *several]) == ([], [])
    all_of_them = ("print.md", {f"Question {i}?": [answer] for i, answer in enumerate(answers)})
    assert contained([*single, *several, all_of_them]) == ([10], [])


def test_a_table_of_questions_with_several_answers_keeps_them_all(tmp_path):
    generator = random.Random(0)
    texts = [" ".join(f"{generator.randrange(10**6):x}" for _ in range(20)) + "." for _ in range(135)]
    answers, queries = texts[:60], texts[60:]
    rows = [{"query": query, "positive": [answer]} for query, answer in zip(queries, answers, strict=False)]
    rows += [{"query": query, "positive": answers[4 * i : 4 * i + 4]} for i, query in enumerate(queries[60:])]
    pl.DataFrame(rows).write_parquet(tmp_path / "faq.parquet")
    result = build_pairs([tmp_path / "faq.parquet"], tmp_path / "out", PairSettings(hold_out=0))
    assert (result.documents, result.collections) == (75, 0)
    trained = pl.read_parquet(tmp_path / "out" / "pairs.parquet")["query"]
    assert {row["query"] for row in rows} == {*trained}


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

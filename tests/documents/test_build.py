"""From folders to pairs and held-out questions, also where a folder is not as one would wish."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from conan_embed.documents import build
from conan_embed.documents.build import PairSettings, PairsResult, build_pairs
from conan_embed.documents.held_out import HeldOutTexts
from conan_embed.errors import UserError
from conan_embed.evaluation.discovery import discover

MakeFolder = Callable[..., Path]
THINGS = ["backup", "restore", "index", "schema", "replica", "shard", "cursor", "vacuum", "trigger", "view"]


def _page(number: int, sections: int = 3) -> str:
    """Return a page whose sentences no other page has."""
    thing = f"{THINGS[number % 10]}{number}"
    parts = [
        f"# All about {thing}\n\nThe {thing} command of part {number} works on tables number {number * 7}.\n"
    ]
    for place in range(sections):
        parts.append(
            f"## Option {place} of {thing} and its use\n\n"
            f"With option {place} the {thing} tool walks through file {number * 31 + place} slowly. "
            f"It writes {number * 13 + place} lines to stdout. Then the {thing} of chapter {place} ends.\n"
        )
    return "\n".join(parts)


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    def make(pages: dict[str, str | bytes] | int = 30) -> Path:
        files = (
            {f"page{number}.md": _page(number) for number in range(pages)}
            if isinstance(pages, int)
            else pages
        )
        root = tmp_path / "docs"
        root.mkdir()
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root

    return make


def _build(root: Path, **settings) -> PairsResult:
    return build_pairs([root], root.parent / "out", PairSettings(**settings))


def _texts(result: PairsResult) -> tuple[pl.DataFrame, pl.DataFrame]:
    return pl.read_parquet(result.output / "pairs.parquet"), pl.read_parquet(
        result.output / "passages.parquet"
    )


def _judged(result: PairsResult, role: str = "test") -> pl.DataFrame:
    """Return `query`, `doc_id`, `text` of the held-out questions."""
    folder = result.output / role / "retrieval" / result.name
    corpus, queries, qrels = (
        pl.read_parquet(folder / f"{name}.parquet") for name in ("corpus", "queries", "qrels")
    )
    judged = qrels.join(queries.rename({"text": "query"}), on="query_id").join(corpus, on="doc_id")
    assert len(judged) == len(qrels), "every judgement leads to a query and a passage"
    return judged.select("query", "doc_id", "text")


def test_pairs_passages_and_questions_of_a_folder(folder: MakeFolder) -> None:
    result = _build(folder())
    pairs, passages = _texts(result)
    assert (result.documents, result.passages) == (30, 120)
    assert passages["doc_id"].is_unique().all()
    located = pairs.join(passages, on="doc_id")
    assert (located["positive"] == located["text"]).all()
    line = {row["doc_id"]: row["line"] for row in passages.iter_rows(named=True)}
    for file, number, heading in passages.select("file", "line", "headings").iter_rows():
        if heading:
            assert heading in Path(file).read_text().split("\n")[number - 3]
    assert len(line) == 120
    assert result.num_pairs == len(pairs)
    assert [task.key for task in discover(result.output / "test")] == ["retrieval/docs"]


def test_held_out_documents_are_in_no_training_pair_and_the_corpus_is_whole(folder: MakeFolder) -> None:
    result = _build(folder())
    pairs, passages = _texts(result)
    assert result.unit == "document"
    development, test = _judged(result, "development"), _judged(result)
    assert development["query"].n_unique(), test["query"].n_unique() == tuple(result.questions.values())
    corpus = pl.read_parquet(result.output / "test" / "retrieval" / result.name / "corpus.parquet")
    assert len(corpus) == len(passages)
    held_out = pl.concat([development, test])
    files = [set(frame["doc_id"].str.split(":").list.first()) for frame in (development, test, pairs)]
    assert not files[0] & files[2] and not files[1] & files[2] and not files[0] & files[1]
    assert not set(held_out["query"]) & set(pairs["query"])
    assert not set(held_out["text"]) & set(pairs["positive"])
    marked = passages.filter(split="held_out")
    assert set(held_out["doc_id"]) <= set(marked["doc_id"])


def test_near_copies_of_held_out_texts_leave_training(folder: MakeFolder) -> None:
    pages = {f"page{number}.md": _page(number) for number in range(30)}
    pages |= {f"copy{number}.md": _page(number).replace("slowly", "slowly, too") for number in range(30)}
    result = _build(folder(pages))
    pairs, _ = _texts(result)
    held_out = pl.concat([_judged(result, "development"), _judged(result)])
    assert result.near_duplicates + result.questions["test"] > 0
    near = HeldOutTexts(held_out["text"])
    assert not near.near(pairs["positive"]).any()


def test_the_same_seed_holds_out_the_same_questions_and_another_seed_others(folder: MakeFolder) -> None:
    root = folder()
    results = [
        build_pairs([root], root.parent / f"out{run}", PairSettings(seed=run // 2)) for run in range(3)
    ]
    queries = [set(_judged(result)["query"]) for result in results]
    assert queries[0] == queries[1] != queries[2]


def test_nothing_is_held_out_where_nothing_should_be(folder: MakeFolder) -> None:
    result = _build(folder(), hold_out=0.0)
    assert result.questions == {"development": 0, "test": 0}
    assert not (result.output / "test").exists()
    assert (_texts(result)[1]["split"] == "train").all()


def test_equal_passages_become_one(folder: MakeFolder) -> None:
    shared = "## How to get help\n\nAsk on the forum, where somebody will answer within a day.\n"
    pages = {f"p{number}.md": f"{_page(number)}\n{shared}" for number in range(3)}
    result = _build(folder(pages))
    _, passages = _texts(result)
    assert passages["text"].is_unique().all()


def test_what_many_pages_repeat_is_left_out(folder: MakeFolder) -> None:
    footer = "\n\n---\n\nCopyright by the Widget company. All rights reserved.\n"
    menu = "- [Home](/)\n- [Docs](/docs)\n- [About](/about)\n\n"
    result = _build(folder({f"p{number}.md": menu + _page(number) + footer for number in range(20)}))
    _, passages = _texts(result)
    assert result.boilerplate == 2
    assert not passages["text"].str.contains("Copyright|Home").any()


def test_a_table_of_pairs_is_taken_as_it_is_and_split_by_shared_texts(tmp_path: Path) -> None:
    rows = [
        (f"Question number {n}?", f"The answer about thing {n // 3 * 17} is given here.") for n in range(300)
    ]
    pl.DataFrame(rows, schema=["question", "answer"], orient="row").write_csv(tmp_path / "faq.csv")
    result = build_pairs([tmp_path / "faq.csv"], tmp_path / "out")
    pairs, passages = _texts(result)
    assert set(pairs["kind"]) == {"faq"}
    assert len(passages) == 100, "an answer of three questions is one passage"
    held_out = pl.concat([_judged(result, "development"), _judged(result)])
    assert not set(held_out["text"]) & set(pairs["positive"])
    assert len(held_out) + len(pairs) + result.near_duplicates == 300


def test_a_table_of_texts(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"title": [f"About {t}" for t in THINGS], "body": [f"{_page(n)[20:]}" for n in range(10)]}
    )
    frame.write_parquet(tmp_path / "t.parquet")
    result = build_pairs([tmp_path / "t.parquet"], tmp_path / "out")
    assert result.documents == 10
    assert "title" in result.pairs or "heading" in result.pairs


def test_a_named_table_without_texts_is_refused_and_in_a_folder_skipped(
    folder: MakeFolder, tmp_path: Path
) -> None:
    root = folder({**{f"p{n}.md": _page(n) for n in range(3)}, "numbers.csv": "a,b\n1,2\n"})
    assert _build(root).skipped == {"table without texts or pairs, or damaged": 1}
    with pytest.raises(UserError, match=r"numbers\.csv: found the columns 'a' and 'b'"):
        build_pairs([root / "numbers.csv"], tmp_path / "other")


# --------------------------------------------------------------------------------------------------- bad input


def test_an_empty_folder(folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="docs: found no files, expected documents"):
        _build(folder({}))


def test_only_scans_binaries_and_broken_encodings(folder: MakeFolder) -> None:
    root = folder({"a.md": b"\x00\x01\x02", "b.txt": bytes(range(128, 256)) * 9, "c.md": b"", "d.png": b"x"})
    expected = r"found no document with text\. Skipped: .*1 x binary \(such as .*a\.md\)"
    with pytest.raises(UserError, match=expected) as caught:
        _build(root)
    for reason in ("unknown encoding", "empty", "another format"):
        assert f"1 x {reason}" in str(caught.value)


def test_one_bad_file_does_not_stop_the_others(folder: MakeFolder) -> None:
    result = _build(folder({"bad.md": b"\x00", **{f"p{n}.md": _page(n) for n in range(5)}}))
    assert result.documents == 5
    assert "skipped: 1 x binary" in "\n".join(result.lines())


def test_a_folder_without_headings_asks_by_first_sentences(folder: MakeFolder) -> None:
    texts = [f"the {THINGS[n % 10]} number {n} is a very useful thing. {_page(n)[60:400]}" for n in range(40)]
    flat = [text.replace("#", "").replace("\n", " ") for text in texts]
    result = _build(folder({f"n{number}.txt": text for number, text in enumerate(flat)}))
    assert list(result.pairs) == ["sentence"]
    for query, text in _judged(result).select("query", "text").iter_rows():
        assert query not in text, "the answer must not hold its question word for word"


def test_one_document_is_split_by_section(folder: MakeFolder) -> None:
    result = _build(folder({"a.md": _page(1, sections=40)}))
    pairs, _ = _texts(result)
    assert result.unit == "section"
    assert result.questions["test"] > 0
    assert not set(_judged(result)["doc_id"]) & set(pairs["doc_id"])


def test_every_document_the_same_is_one_document(folder: MakeFolder) -> None:
    result = _build(folder({f"p{number}.md": _page(1, sections=8) for number in range(50)}))
    assert (result.documents, result.copies) == (1, 49)
    assert result.num_pairs > 0
    assert result.boilerplate == 0


def test_a_text_of_which_nothing_can_be_asked(folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="1 passages, but nothing that makes a pair"):
        _build(folder({"a.txt": "word.\n"}))


def test_thousands_of_tiny_files(folder: MakeFolder) -> None:
    notes = [f"# Note {n} on {THINGS[n % 10]}\n\n{_page(n)[20:90]}\n" for n in range(4000)]
    result = _build(folder({f"{number // 500}/n{number}.md": note for number, note in enumerate(notes)}))
    assert (result.documents, result.passages) == (4000, 4000)


def test_a_large_file_is_read_in_pieces(folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conan_embed.documents.parsing.split_text.__defaults__", (3_000,))
    root = folder({"big.md": "\n".join(_page(n) for n in range(60))})
    result = _build(root)
    _, passages = _texts(result)
    assert result.documents > 10
    lines = (root / "big.md").read_text().split("\n")
    for number, text in passages.select("line", "text").iter_rows():
        assert lines[number - 1] == text.split("\n")[0]


# ------------------------------------------------------------------------------------------------- resumption


def test_a_killed_run_resumes_and_gives_the_same(folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conan_embed.documents.parsing._BATCH_FILES", 10)
    root = folder()
    whole = build_pairs([root], root.parent / "whole")
    seen: list[Path] = []
    make_part = build.make_part

    def killed(file: Path, *args, **kwargs) -> None:
        seen.append(file)
        if len(seen) == 3:
            raise KeyboardInterrupt
        make_part(file, *args, **kwargs)

    monkeypatch.setattr(build, "make_part", killed)
    with pytest.raises(KeyboardInterrupt):
        _build(root)
    before = {path: path.stat().st_mtime_ns for path in (root.parent / "out" / "work").rglob("*.parquet")}
    monkeypatch.setattr("conan_embed.documents.collection.tracked", lambda items, *_, **__: items)
    after: dict[Path, int] = {}
    finish = build.finish

    def watched(parts: Path, *args, **kwargs):
        after.update({path: path.stat().st_mtime_ns for path in before})
        return finish(parts, *args, **kwargs)

    monkeypatch.setattr(build, "finish", watched)
    resumed = _build(root)
    assert len(before) == 7, "the blocks of three batches, passages and pairs of two"
    assert after == before, "nothing that was there is made again"
    for one, other in zip(_texts(whole), _texts(resumed), strict=True):
        assert one.equals(other)


def test_a_finished_run_is_not_made_again_unless_something_changed(folder: MakeFolder) -> None:
    root = folder()
    first = _build(root)
    written = (first.output / "pairs.parquet").stat().st_mtime_ns
    assert _build(root) == first
    assert (first.output / "pairs.parquet").stat().st_mtime_ns == written
    (root / "more.md").write_text(_page(99))
    assert _build(root).documents == 31


def test_a_folder_with_other_things_in_it_is_left_alone(folder: MakeFolder) -> None:
    root = folder()
    (root.parent / "out").mkdir()
    (root.parent / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty and was not written by `pairs`"):
        _build(root)


def test_several_processes_give_the_same(folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conan_embed.documents.parsing._BATCH_FILES", 10)
    root = folder()
    one = _build(root)
    two = build_pairs([root], root.parent / "two", PairSettings(workers=2))
    for ours, theirs in zip(_texts(one), _texts(two), strict=True):
        assert ours.equals(theirs)


def test_the_command_says_what_it_made(folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    from conan_embed.cli import app

    root = folder()
    app(["pairs", str(root), "-o", str(root.parent / "out"), "--workers", "1"], standalone_mode=False)
    assert "30 documents from 30 files" in capsys.readouterr().err
    assert (root.parent / "out" / "pairs.parquet").exists()

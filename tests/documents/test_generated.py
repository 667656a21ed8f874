"""Questions by a language model, from passages to checked pairs, with a server of the test's own."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from conan_embed.documents import build
from conan_embed.documents.build import PairSettings, build_pairs
from conan_embed.documents.generated import QuestionSettings, fault, prompt_for, read_questions
from conan_embed.documents.language_model import Endpoint
from conan_embed.errors import UserError
from tests.support.chat_server import chat_server

PASSAGE = (
    "The rotation of logs happens every night at two, and old files are compressed before they are moved."
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.md").write_text(
            f"# Part {number} of the machine\n\nThe part with number {number} turns {number * 7} times a minute while "
            f"lamp {number * 3} is lit. It is oiled every {number + 2} days by the keeper, who notes it in book "
            f"{number * 11} of the mill. Without oil the part stops and the whole floor {number} stands still.\n"
        )
    return folder


def _settings(url: str, **changes) -> QuestionSettings:
    return QuestionSettings(Endpoint(url, "tiny", pause=0.01, timeout=2.0, tries=2), **changes)


def _number(prompt: str) -> str:
    return prompt.split("The part with number ")[1].split()[0] if "The part with" in prompt else "?"


@pytest.mark.parametrize(
    ("url", "name", "found"),
    [
        ("http://localhost:8000/v1", None, "found an address without a name, expected both"),
        (None, "qwen", "found a name without an address, expected both"),
    ],
)
def test_a_language_model_needs_address_and_name(url: str | None, name: str | None, found: str) -> None:
    with pytest.raises(UserError, match=found):
        QuestionSettings.of(url, name, 1000)
    assert QuestionSettings.of(None, None, 1000) is None


def test_questions_become_pairs_with_their_source_and_are_held_out(
    docs: Path, tmp_path: Path, capsys
) -> None:
    def reply(_: int, prompt: str) -> str:
        number = _number(prompt)
        asked = [f"1. how fast does piece {number} rotate?", f"2. who cares for piece {number}?", "3. oil"]
        return "\n".join(["Here are the queries:", *asked])

    with chat_server(reply) as server:
        result = build_pairs([docs], tmp_path / "out", PairSettings(questions=_settings(server.url)))
        count = len(server.requests)
        again = build_pairs([docs], tmp_path / "out", PairSettings(questions=_settings(server.url)))
        assert len(server.requests) == count and again == result
    said = capsys.readouterr().err
    assert "asking tiny about 30 passages: about" in said
    assert result.generated is not None
    assert (result.generated.passages, result.generated.questions, result.generated.kept) == (30, 90, 60)
    assert result.generated.dropped == {"are too short, too long or no words": 30}
    pairs = pl.read_parquet(tmp_path / "out" / "pairs.parquet").filter(kind="generated")
    assert len(pairs) > 20
    for query, positive, file in pairs.select("query", "positive", "file").iter_rows():
        number = query.rstrip("?").split("piece ")[1].split()[0]
        assert f"number {number} turns" in positive and Path(file).name == f"{number}.md"
    queries = pl.read_parquet(tmp_path / "out" / "test" / "retrieval" / result.name / "queries.parquet")[
        "text"
    ]
    assert any("piece" in query for query in queries)
    assert not set(queries) & set(pairs["query"])


def test_a_question_that_does_not_find_its_passage_is_dropped(
    docs: Path, tmp_path: Path, monkeypatch
) -> None:
    def encode(texts: list[str], role: str) -> np.ndarray:
        vectors = np.zeros((len(texts), 40), np.float32)
        for row, text in enumerate(texts):
            number = text.split("piece ")[1].split("?")[0] if role == "query" else _number(text)
            vectors[row, int(number) % 40] = 1
        return vectors

    class Model:
        encode_query = staticmethod(lambda texts: encode(texts, "query"))
        encode_document = staticmethod(lambda texts: encode(texts, "passage"))

        def to(self, device: object) -> "Model":
            return self

    monkeypatch.setattr("conan_embed.encoder.model.EmbeddingModel.load", lambda _: Model())
    monkeypatch.setattr(build, "token_counter", lambda _: build.estimate_tokens)

    def reply(_: int, prompt: str) -> str:
        wrong = int(_number(prompt)) + 1 if _number(prompt) != "?" else 0
        return f"what turns in piece {_number(prompt)}?\nwhat stands beside piece {wrong}?"

    with chat_server(reply) as server:
        settings = PairSettings(model="some", questions=_settings(server.url, per_passage=2, k=1))
        result = build_pairs([docs], tmp_path / "out", settings)
    assert result.generated is not None and result.generated.kept == 30
    assert result.generated.dropped == {"do not find their passage among the first 1": 30}


def test_tokens_bound_how_many_passages_are_asked_about(docs: Path, tmp_path: Path, capsys) -> None:
    with chat_server(lambda _, prompt: f"what is special about piece {_number(prompt)}?") as server:
        settings = PairSettings(questions=_settings(server.url, max_tokens=2_000))
        result = build_pairs([docs], tmp_path / "out", settings)
        assert result.generated is not None
        assert 0 < result.generated.passages < 10
        assert "all 30 would take" in capsys.readouterr().err
        few = PairSettings(questions=_settings(server.url, max_tokens=10))
        with pytest.raises(UserError, match="10 tokens do not suffice for one of 30 passages"):
            build_pairs([docs], tmp_path / "few", few)


def test_nonsense_is_refused_and_a_run_that_broke_off_resumes(docs: Path, tmp_path: Path) -> None:
    with chat_server(lambda *_: "ok") as server:
        settings = PairSettings(questions=_settings(server.url))
        with pytest.raises(
            UserError, match=r"none of 30 lines from tiny is a usable question \(30 are too short"
        ):
            build_pairs([docs], tmp_path / "nonsense", settings)
    with pytest.raises(UserError, match="cannot be reached"):
        build_pairs([docs], tmp_path / "down", settings)


def test_answers_are_read_without_what_stands_around_the_questions() -> None:
    answer = 'Sure, here you go:\n\n1. How is it done?\n- "Where are the logs?"\n* rotate logs\nQ: 如何轮换日志？\n'
    assert read_questions(answer) == [
        "How is it done?",
        "Where are the logs?",
        "rotate logs",
        "如何轮换日志？",
    ]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("When are the log files moved away?", None),
        ("rotate logs nightly", None),
        ("?!", "too short"),
        ("What does the passage say about logs?", "the passage itself"),
        ("Is it so that the rotation of logs happens every night at two?", "copy the passage"),
        ("x" * 400, "too long"),
    ],
)
def test_a_question_is_checked(question: str, reason: str | None) -> None:
    found = fault(question, PASSAGE)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_chinese_passages_are_asked_in_chinese() -> None:
    passage = "数据库的备份在每天凌晨两点进行，旧文件在移动之前会被压缩，管理员可以在配置中修改时间。"
    assert fault("how to back up?", passage) == "are in another language"
    assert fault("怎样更改备份的时间？", passage) is None
    assert fault("旧文件在移动之前会被压缩吗？", passage) == "copy the passage"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("From: Administration > Backing up the whole database", "repeat the request"),
        ("each on a line of its own, without numbers", "repeat the request"),
        ("<|im_start|>user", "repeat the request"),
        ("</s> how do I restore it?", "repeat the request"),
        ("how do I restore the database?", None),
        ("backing up", None),
    ],
)
def test_a_weak_model_repeats_what_it_was_told(line: str, reason: str | None) -> None:
    request = prompt_for(3, 0, "Administration", "Backing up the whole database", PASSAGE)
    assert fault(line, PASSAGE, request) == reason

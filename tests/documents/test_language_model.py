"""The client against a real server: faults, retries, the cache, the key."""

import json
import threading
import time
from pathlib import Path

import pytest

from conan_embed.documents.language_model import Answer, Endpoint, LanguageModel
from conan_embed.errors import UserError
from tests.support.chat_server import chat_server

SAID = "How is it done?"


def _model(url: str, folder: Path, **settings) -> LanguageModel:
    return LanguageModel(
        Endpoint(url, "tiny", **{"pause": 0.01, "timeout": 2.0, **settings}), folder / "answers.jsonl"
    )


def _ask(model: LanguageModel, prompts: list[str]) -> dict[int, Answer]:
    return {answer.number: answer for answer in model.ask(prompts, max_tokens=50)}


@pytest.mark.parametrize(
    "fault",
    [
        (429, "slow down"),
        (500, "oops"),
        (503, ""),
        (200, "{broken"),
        (200, '{"choices": []}'),
        (200, '{"error": "no"}'),
        (200, json.dumps({"choices": [{"message": {"content": None}}]})),
        (200, json.dumps({"choices": [{"message": {"content": "half a"}, "finish_reason": "length"}]})),
        None,
    ],
)
def test_a_fault_is_tried_again(fault, tmp_path: Path) -> None:
    with chat_server(lambda number, _: SAID if number >= 2 else fault) as server:
        answers = _ask(_model(server.url, tmp_path), ["one"])
    assert answers[0].text == SAID
    assert len(server.requests) == 3


def test_answers_are_kept_and_found_whatever_characters_are_in_them(tmp_path: Path) -> None:
    """Also line separators that JSON leaves as they are, and half characters, which are replaced."""
    answers = {
        "a": "What is A?\u2028And B?",
        "b": "one\x85two",
        "c": "three\x0bfour\r\nfive",
        "d": "half \ud800.",
    }
    with chat_server(lambda _, prompt: answers[prompt]) as server:
        first = _ask(_model(server.url, tmp_path), list(answers))
        asked = len(server.requests)
        again = _ask(_model(server.url, tmp_path), list(answers))
        assert len(server.requests) == asked == len(answers)
    expected = [answers["a"], answers["b"], answers["c"], "half ?."]
    assert [first[number].text for number in range(4)] == expected
    assert [again[number].text for number in range(4)] == expected


def test_a_server_that_is_too_slow_is_tried_again(tmp_path: Path) -> None:
    def reply(number: int, _: str) -> str:
        time.sleep(1.0 if number == 0 else 0)
        return SAID

    with chat_server(reply) as server:
        assert _ask(_model(server.url, tmp_path, timeout=0.3), ["one"])[0].text == SAID


def test_one_prompt_that_always_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    with chat_server(lambda _, prompt: (500, "no") if prompt == "bad" else SAID) as server:
        answers = _ask(_model(server.url, tmp_path, tries=2), ["a", "bad", "b"])
    assert [answers[number].text for number in range(3)] == [SAID, None, SAID]


def test_an_endpoint_that_is_down_or_refuses_is_one_sentence(tmp_path: Path) -> None:
    with chat_server(lambda *_: (500, "no")) as server:
        model = _model(server.url, tmp_path, tries=1)
        with pytest.raises(UserError, match="50 requests in a row failed; answers 500"):
            _ask(model, [str(number) for number in range(200)])
        assert len(server.requests) < 100
    with pytest.raises(UserError, match=r"cannot be reached .*expected an OpenAI-compatible endpoint"):
        _model(server.url, tmp_path).check()
    with chat_server(lambda *_: (401, '{"error": "bad key"}')) as server:
        with pytest.raises(UserError, match=r"answers 401 Unauthorized.*bad key"):
            _ask(_model(server.url, tmp_path), ["one"])
        assert len(server.requests) == 1, "a refused key is not tried again"


def test_answers_are_kept_and_asked_for_once_also_after_a_kill(tmp_path: Path) -> None:
    with chat_server(lambda *_: SAID) as server:
        _ask(_model(server.url, tmp_path), ["a", "b"])
        file = tmp_path / "answers.jsonl"
        file.write_text(file.read_text().rstrip("\n")[:-5])  # the last line cut short
        again = _ask(_model(server.url, tmp_path), ["a", "b", "c"])
        assert len(server.requests) == 4
        assert {answer.text for answer in again.values()} == {SAID}
        assert sum(answer.tokens == 0 for answer in again.values()) == 1
        _ask(_model(server.url, tmp_path), ["a", "b", "c"])
    assert len(server.requests) == 4


def test_requests_run_at_the_same_time_up_to_the_bound(tmp_path: Path) -> None:
    running, most, lock = [0], [0], threading.Lock()

    def reply(*_: object) -> str:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        return SAID

    with chat_server(reply) as server:
        _ask(_model(server.url, tmp_path, concurrency=4), [str(number) for number in range(24)])
    assert 2 <= most[0] <= 4


def test_the_key_comes_from_the_environment_and_is_written_nowhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-123")
    with chat_server(lambda *_: SAID) as server:
        _ask(_model(server.url, tmp_path), ["a"])
    assert server.headers[0]["Authorization"] == "Bearer secret-123"
    assert not any("secret-123" in file.read_text() for file in tmp_path.rglob("*") if file.is_file())

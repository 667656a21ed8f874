"""Judges of likely false negatives: a cross-encoder against the stock model, a language model against a server."""

import pytest
import torch
import transformers

from conan_embed.distillation.judge import load_judge, read_verdict
from conan_embed.errors import UserError
from conan_embed.negatives.false_negatives import HardNegative
from tests.support.chat_server import chat_server
from tests.tiny_models import SENTENCES

CPU = torch.device("cpu")


def pair(query: str, positive: str, negative: str) -> HardNegative:
    return HardNegative("faq", query, positive, negative, 0.9, 0.88, None, None, None, True, True)


def test_a_cross_encoder_says_yes_where_the_negative_scores_as_high_as_the_positive(cross_encoder, tmp_path):
    pairs = [
        pair(SENTENCES[i % 5], SENTENCES[i % 7] + " a" * (i % 3), SENTENCES[(i + 1) % 6]) for i in range(20)
    ]
    pairs.append(pair("same", "text", "text"))
    judged = load_judge(str(cross_encoder), None, tmp_path / "answers.jsonl", CPU).judge(pairs)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(cross_encoder)

    def logit(query, passage):
        with torch.no_grad():
            return model(**tokenizer(query, passage, return_tensors="pt")).logits.item()

    for before, after in zip(pairs, judged, strict=True):
        gap = logit(before.query, before.negative) - logit(before.query, before.positive)
        assert after.judge_gap == pytest.approx(gap, abs=0.05)  # bfloat16
        assert after.label == ("positive" if after.judge_gap >= 0 else "negative")
        assert (after.query, after.negative) == (before.query, before.negative)
    assert judged[-1].label == "positive" and len({each.label for each in judged}) == 2


def test_a_language_model_says_yes_or_no_and_what_is_unclear_stays_open(tmp_path):
    replies = {"right": "Yes.", "wrong": "**No**", "unsure": "It depends."}

    def reply(_, prompt):
        candidate = prompt.split("Candidate passage: ")[-1].strip()
        return replies.get(candidate, "Yes")

    pairs = [pair("how?", "known", negative) for negative in ("right", "wrong", "unsure", "right")]
    with chat_server(reply) as server:
        judge = load_judge(server.url, "tiny", tmp_path / "answers.jsonl", CPU)
        assert [each.label for each in judge.judge(pairs)] == ["positive", "negative", "", "positive"]
        prompts = [request["messages"][0]["content"] for request in server.requests[1:]]
        assert all("Query: how?" in prompt and "Known answer: known" in prompt for prompt in prompts)
        assert {request["temperature"] for request in server.requests} == {0.0}
        long = pair("q" * 20_000, "p" * 20_000, "n" * 20_000)
        judge.judge([long])
        assert len(server.requests[-1]["messages"][0]["content"]) < 25_000
        count = len(server.requests)
        again = load_judge(server.url, "tiny", tmp_path / "answers.jsonl", CPU).judge(pairs)
        assert [each.label for each in again] == ["positive", "negative", "", "positive"]
        assert len(server.requests) == count + 1, "only the check at the start"


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("yes", "positive"),
        ("  **Yes**, it names the hour.", "positive"),
        ("No.", "negative"),
        ("Not an answer", "negative"),
        ("<think>yes, or\nno?</think>\nno", "negative"),
        ("是。", "positive"),
        ("不是", "negative"),
        ("否", "negative"),
        ("是否", ""),
        ("Nothing here", ""),
        ("Yesterday", ""),
        ("<think>yes", ""),
        ("", ""),
    ],
)
def test_verdicts(answer, label):
    assert read_verdict(answer) == label


def test_what_is_no_judge_is_one_sentence(cross_encoder, tmp_path):
    for name, llm, words in (
        ("http://localhost:1/v1", None, "expected the model's name there"),
        (str(cross_encoder), "tiny", "expected the URL of an endpoint"),
        ("http://127.0.0.1:9/v1", "tiny", "cannot be reached"),
        (str(tmp_path), None, "--judge: .*cannot be loaded as a cross-encoder"),
    ):
        with pytest.raises(UserError, match=words):
            load_judge(name, llm, tmp_path / "answers.jsonl", CPU)

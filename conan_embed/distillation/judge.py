"""Judges of likely false negatives: does this passage answer the query? (`conan-embed false-negatives --judge`)

- a cross-encoder says yes where it scores the negative at least as high as the query's positive;
- a language model behind an OpenAI-compatible endpoint reads both passages and says yes or no.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from conan_embed.distillation.cross_encoder import CrossEncoder
from conan_embed.documents.language_model import Endpoint, LanguageModel
from conan_embed.encoder.loading import local_folder
from conan_embed.errors import UserError
from conan_embed.negatives.false_negatives import HardNegative

_LONGEST = 8_000  # characters of a text in a prompt: endpoints refuse what does not fit their window
_ANSWER_TOKENS = 1_024  # models that think aloud need them; others stop after one word
_PROMPT = """\
Does the candidate passage answer the search query, as the known answer does? A passage on the same subject that does \
not answer the query is no answer. Reply with one word, yes or no.

Query: {query}

Known answer: {positive}

Candidate passage: {negative}
"""
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_VERDICT = re.compile(r"(?i)\W*(?:(yes\b|是(?!否))|(?:no\b|not\b|否|不))")


class Judge(Protocol):
    """Labels pairs."""

    def judge(self, pairs: Sequence[HardNegative]) -> list[HardNegative]:
        """Return the pairs with their labels; one without a clear verdict keeps an empty label."""
        ...


def load_judge(name: str, llm: str | None, cache: Path, device: torch.device) -> Judge:
    """Return the judge of this name.

    Args:
        name: folder or hub name of a cross-encoder, or the URL of an endpoint.
        llm: the language model's name at the endpoint.
        cache: a file for the answers of a language model, so that none is asked for twice.

    Raises:
        UserError: an URL without a model's name or the other way round, no such model, an endpoint that does not
            answer.
    """
    if name.startswith(("http://", "https://")) != (llm is not None):
        expected = "the model's name there (--llm)" if llm is None else "the URL of an endpoint beside --llm"
        raise UserError(f"--judge: found {name}, expected {expected}.")
    if llm is None:
        return CrossEncoderJudge(CrossEncoder(local_folder(name), device, key="--judge"))
    model = LanguageModel(Endpoint(name, llm), cache)
    model.check()
    return LanguageModelJudge(model)


class CrossEncoderJudge:
    """A negative is an answer where the model scores it at least as high as the query's positive."""

    def __init__(self, model: CrossEncoder) -> None:
        self.model = model

    def judge(self, pairs: Sequence[HardNegative]) -> list[HardNegative]:
        """See `Judge`; `judge_gap` says by how much."""
        queries = [pair.query for pair in pairs]
        positive = self.model.score(queries, [pair.positive for pair in pairs])
        gaps = self.model.score(queries, [pair.negative for pair in pairs]) - positive
        return [
            replace(pair, label="positive" if gap >= 0 else "negative", judge_gap=round(gap, 4))
            for pair, gap in zip(pairs, gaps.tolist(), strict=True)
        ]


class LanguageModelJudge:
    """A negative is an answer where the language model says yes."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def judge(self, pairs: Sequence[HardNegative]) -> list[HardNegative]:
        """See `Judge`."""
        prompts = (
            _PROMPT.format(
                query=pair.query[:_LONGEST],
                positive=pair.positive[:_LONGEST],
                negative=pair.negative[:_LONGEST],
            )
            for pair in pairs
        )
        labels = {
            answer.number: read_verdict(answer.text or "")
            for answer in self.model.ask(prompts, max_tokens=_ANSWER_TOKENS, temperature=0.0)
        }
        return [replace(pair, label=labels[number]) for number, pair in enumerate(pairs)]


def read_verdict(answer: str) -> str:
    """Return "positive" for an answer that begins with yes, "negative" for no, else an empty string.

    >>> read_verdict("<think>Yes? Its author...</think> **No**, it does not."), read_verdict("Perhaps.")
    ('negative', '')
    """
    verdict = _VERDICT.match(_THOUGHT.sub("", answer))
    if verdict is None:
        return ""
    return "positive" if verdict[1] else "negative"

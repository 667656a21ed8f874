"""Questions by a language model: asked for passages, checked, and kept where their passage is found again.

    parts/pairs-generated.parquet    pairs of kind "generated", as `parts` writes the others
    parts/generated.json             how many were asked for, answered, dropped and why (`Generated`)

Shapes: P passages asked, Q questions, C passages searched.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from conan_embed.console import console, progress_bar
from conan_embed.documents.language_model import Endpoint, LanguageModel
from conan_embed.documents.parts import PAIRS
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, read_json, write_json

Encode = Callable[[Sequence[str], str], np.ndarray]
"""Texts and their role ("query" or "passage") to embeddings, float32 [N, D]."""

_STYLES = (
    "a full question that a newcomer asks",
    "a question about one detail, by someone who knows the subject",
    "a few keywords, as typed into a search box",
    "a question that describes a problem without the passage's own terms",
    "a how-to question",
)
_PROMPT = """\
Write {count} search queries that the passage below answers, in {language}, each on a line of its own, without numbers \
and without anything else. Each must make sense to somebody who has not seen the passage, and must not copy its \
sentences. Styles: {styles}.

{title}Passage:
{passage}
"""
_PROMPT_TOKENS, _ANSWER_TOKENS = 130, 40  # of the prompt without its passage; of one question
_SEARCHED = 20_000  # passages among which a question must find its own
_MIN_TOKENS = 30  # of a passage that is asked about
_SHORTEST, _LONGEST = 4, 300  # characters of a question
_COPIED = 0.7  # share of a question that may stand in the passage in one piece
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):、]|[Qq]\d*[:：])\s*")
_HAN = re.compile(r"[\u3400-\u9fff]")
_MARKS = re.compile(r"<\|.*?\|>|</?s>|\[/?INST\]")  # of a conversation, which a weak model repeats
_CHATTER = re.compile(r"(?i)(?:(?:here (?:are|is)|sure|certainly|of course)\b.*|(?:以下|好的).*|.*[:：])")


@dataclass(frozen=True)
class QuestionSettings:
    """Attributes:
    endpoint: of the language model.
    per_passage: questions asked for at a time, in as many styles.
    max_tokens: of all requests and answers together; of more passages than they suffice for, some are drawn.
    k: the passage must be among the first k for its question.
    """

    endpoint: Endpoint
    per_passage: int = 3
    max_tokens: int = 5_000_000
    k: int = 10

    @classmethod
    def of(cls, url: str | None, name: str | None, max_tokens: int) -> "QuestionSettings | None":
        """Return the settings for the language model `name` at `url`; None where neither is given.

        Raises:
            UserError: one without the other.
        """
        if url is None and name is None:
            return None
        if url is None or name is None:
            found, missing = ("a name", "an address") if url is None else ("an address", "a name")
            raise UserError(f"language model for questions: found {found} without {missing}, expected both.")
        return cls(Endpoint(url, name), max_tokens=max_tokens)


@dataclass(frozen=True)
class Generated:
    """Attributes:
    passages: asked about.
    failed: without an answer.
    questions: that came.
    dropped: by reason.
    kept: pairs.
    tokens: that the endpoint says it used.
    """

    passages: int
    failed: int
    questions: int
    kept: int
    tokens: int
    dropped: dict[str, int] = field(default_factory=dict)

    def sentence(self) -> str:
        """Return what came of it, for a person."""
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return (
            f"questions by the language model: {self.kept:,} of {self.questions:,} kept"
            f"{f' ({dropped})' if dropped else ''}; {self.passages:,} passages asked about, {self.failed:,} without an "
            f"answer; {self.tokens:,} tokens"
        )


def generate_questions(
    parts: Path, cache: Path, settings: QuestionSettings, encode: Encode | None, seed: int
) -> Generated:
    """Ask for questions about passages, and write those that pass as pairs, unless they are there.

    Args:
        parts: folder of the passages, see `parts`.
        cache: the file of answers.
        encode: for the search of the passage by its question; None: not searched.

    Raises:
        UserError: the endpoint does not answer, or gives nothing that passes.
    """
    output, counts = parts / "pairs-generated.parquet", parts / "generated.json"
    if counts.exists():  # written last
        return Generated(**read_json(counts))
    passages = _choose(parts, settings, seed)
    model = LanguageModel(settings.endpoint, cache)
    model.check()
    asked, failed, tokens = _ask(model, passages, settings)
    questions = asked.filter(pl.col("reason").is_null()).unique(["query", "row"], maintain_order=True)
    if encode is not None and len(questions):
        found = _finds(questions, passages, encode, settings.k)
        questions, lost = questions.filter(found), int((~found).sum())
    else:
        lost = 0
    dropped = Counter(asked["reason"].drop_nulls().to_list())
    if lost:
        dropped[f"do not find their passage among the first {settings.k}"] = lost
    if questions.is_empty():
        raise UserError(
            f"{settings.endpoint.url}: none of {len(asked):,} lines from {settings.endpoint.model} is a usable question"
            f" ({', '.join(f'{count:,} {reason}' for reason, count in dropped.items()) or 'no answers'})."
        )
    _write(output, questions, passages)
    result = Generated(len(passages), failed, len(asked), len(questions), tokens, dict(dropped.most_common()))
    write_json(counts, asdict(result))
    return result


def _choose(parts: Path, settings: QuestionSettings, seed: int) -> pl.DataFrame:
    """Return as many different passages as the tokens suffice for, in random order; print the estimate."""
    columns = ["key", "text", "title", "headings", "file", "line", "num_tokens", "document", "section"]
    files = sorted(parts.glob("passages-*.parquet"))
    long_enough = pl.scan_parquet(files).filter(pl.col("num_tokens") >= _MIN_TOKENS)
    sizes = long_enough.select("key", "num_tokens").unique("key", maintain_order=True).collect()
    order = np.random.default_rng(seed).permutation(len(sizes))
    cost_P = sizes["num_tokens"].to_numpy()[order] + _PROMPT_TOKENS + settings.per_passage * _ANSWER_TOKENS
    total = int(cost_P.sum())
    chosen = order[np.cumsum(cost_P) <= settings.max_tokens]
    if not len(chosen):
        raise UserError(
            f"questions: {settings.max_tokens:,} tokens do not suffice for one of {len(sizes):,} passages of "
            f"{_MIN_TOKENS} tokens and more; expected more tokens or longer passages."
        )
    used = int(cost_P[: len(chosen)].sum())
    bound = f"; all {len(sizes):,} would take {total:,}" if len(chosen) < len(sizes) else ""
    console.print(
        f"asking {settings.endpoint.model} about {len(chosen):,} passages: about {used:,} tokens{bound}"
    )
    keys = sizes["key"][np.sort(chosen)]
    passages = long_enough.filter(pl.col("key").is_in(keys.implode())).select(columns).collect()
    return passages.unique("key", maintain_order=True).with_row_index("row")


def _ask(
    model: LanguageModel, passages: pl.DataFrame, settings: QuestionSettings
) -> tuple[pl.DataFrame, int, int]:
    """Return row, query and reason (null where it is good) of each question, passages that failed, tokens used."""
    rows: list[tuple[int, str, str | None]] = []
    failed = tokens = 0
    fields = passages.select("row", "title", "headings", "text")
    texts = passages["text"]
    prompts = (prompt_for(settings.per_passage, *row) for row in fields.iter_rows())
    with progress_bar() as bar:
        task = bar.add_task("Asking for questions", total=len(passages), note="")
        for answer in model.ask(prompts, max_tokens=2 * settings.per_passage * _ANSWER_TOKENS):
            bar.advance(task)
            tokens += answer.tokens
            if answer.text is None:
                failed += 1
                continue
            number, lines = answer.number, read_questions(answer.text)[: settings.per_passage]
            request = prompt_for(settings.per_passage, *fields.row(number))
            rows += [(number, line, fault(line, texts[number], request)) for line in lines]
    schema = {"row": pl.UInt32, "query": pl.String, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("row", maintain_order=True), failed, tokens


def prompt_for(count: int, row: int, title: str, headings: str, text: str) -> str:
    """Return what the model is asked about a passage; the row decides which styles."""
    styles = [_STYLES[(row + number) % len(_STYLES)] for number in range(count)]
    path = " > ".join(filter(None, (title, headings)))
    return _PROMPT.format(
        count=count,
        language="Chinese" if _is_chinese(text) else "the language of the passage",
        styles="; ".join(styles),
        title=f"From: {path}\n" if path else "",
        passage=text,
    )


def _is_chinese(text: str) -> bool:
    return len(_HAN.findall(text)) > 0.15 * len(text)


def read_questions(answer: str) -> list[str]:
    """Return the questions of an answer: its lines without list marks, quotes and what the model says around them."""
    lines = (_LIST_MARK.sub("", line).strip().strip("\"'“”「」`*").strip() for line in answer.splitlines())
    return [line for line in lines if line and not _CHATTER.fullmatch(line)]


def fault(question: str, passage: str, request: str = "") -> str | None:
    """Return why a question is of no use for a passage, None where it is; `request` is what the model was told."""
    if not _SHORTEST <= len(question) <= _LONGEST or not any(map(str.isalpha, question)):
        return "are too short, too long or no words"
    if _is_chinese(passage) and not _HAN.search(question):
        return "are in another language"
    if re.search(
        r"(?i)\b(?:the|this) (?:passage|text|document|author)\b|(?:本文|该段|这段|上述|文中)", question
    ):
        return "speak of the passage itself"
    plain = _plain(question)
    if len(plain) >= 2 * _SHORTEST and _has_copy(plain, _plain(passage)):
        return "copy the passage"
    if _MARKS.search(question) or (len(plain) >= 2 * _SHORTEST and _has_copy(plain, _plain(request))):
        return "repeat the request"
    return None


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()


def _has_copy(question: str, passage: str) -> bool:
    """Return whether a piece of `_COPIED` of the question stands in the passage."""
    size = max(20 if not _HAN.search(question) else 12, int(_COPIED * len(question)))
    return any(question[start : start + size] in passage for start in range(len(question) - size + 1))


def _finds(questions: pl.DataFrame, passages: pl.DataFrame, encode: Encode, k: int) -> pl.Series:
    """Return which questions find their passage among the first `k` of up to `_SEARCHED`: Boolean [Q]."""
    # torch takes seconds to import, and only this needs it.
    import torch

    from conan_embed.search.exact import search_vectors

    found = np.zeros(len(questions), bool)
    query_QD = torch.from_numpy(encode(questions["query"].to_list(), "query"))
    row_Q = questions["row"].to_numpy().astype(np.int64)
    for start in range(0, len(passages), _SEARCHED):
        part = passages["text"][start : start + _SEARCHED].to_list()
        corpus_CD = torch.from_numpy(encode(part, "passage"))
        own = np.flatnonzero((row_Q >= start) & (row_Q < start + len(part)))
        if len(own):
            best_QK = search_vectors(query_QD[own], corpus_CD, min(k, len(part)))[1].numpy()
            found[own] = (best_QK == (row_Q[own] - start)[:, None]).any(axis=1)
    return pl.Series(found)


def _write(output: Path, questions: pl.DataFrame, passages: pl.DataFrame) -> None:
    with atomic_write(output) as aside, pq.ParquetWriter(aside, PAIRS, compression="zstd") as writer:
        for rows in _pairs(questions.join(passages, on="row", maintain_order="left")):
            writer.write_table(pa.Table.from_pylist(rows, PAIRS))


def _pairs(rows: pl.DataFrame) -> Iterator[list[dict[str, Any]]]:
    for part in rows.iter_slices(20_000):
        yield [
            {
                **{name: row[name] for name in ("query", "file", "line", "document", "section")},
                "positive": row["text"],
                "kind": "generated",
                "heading": row["headings"],
                "query_key": xxh3_64_intdigest(row["query"].lower().encode()),
                "passage_key": row["key"],
            }
            for row in part.iter_rows(named=True)
        ]

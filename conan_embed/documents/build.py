"""`build_pairs`: sources to passages, pairs and held-out questions, in one folder.

    passages.parquet      doc_id, text, document (its title), headings, file, line, num_tokens, split (train, held_out)
    pairs.parquet         query, positive, doc_id, kind, file, heading, line: training pairs only
    test/, development/   the held-out questions (held_out.py)
    summary.json          what was read, skipped, repeated, made and held out
    work/                 intermediate files; gone when all is done

A killed run resumes where it was: what is in work/ for the same sources and settings is not made again. No more than
a batch of documents is in memory, plus a few dozen bytes for each passage and pair.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from conan_embed.console import console, tracked
from conan_embed.documents.boilerplate import Repeated, find_repeated
from conan_embed.documents.collection import Finished, finish
from conan_embed.documents.generated import Generated, QuestionSettings, generate_questions
from conan_embed.documents.parsing import parse_batches, plan_batches
from conan_embed.documents.parts import make_part
from conan_embed.documents.passages import CountTokens, estimate_tokens
from conan_embed.documents.sources import PYTHON, Skipped, SourceFile, find_files, stat_of
from conan_embed.errors import UserError
from conan_embed.files import read_json, write_json


@dataclass(frozen=True)
class PairSettings:
    """How passages and pairs are made.

    Attributes:
        model: folder or hub name of a model, whose tokenizer counts; else tokens are estimated.
        max_tokens: of a passage.
        overlap: tokens that a passage repeats from the one before it in its section.
        min_tokens: of a passage that may be the positive of a pair.
        hold_out: share of the questions that are never trained on; 0 for none.
        questions: by a language model, too; None for none.
        workers: processes that read documents; with more than one, a script needs `if __name__ == "__main__"`.
    """

    model: str | None = None
    max_tokens: int = 256
    overlap: int = 0
    min_tokens: int = 8
    hold_out: float = 0.1
    seed: int = 0
    questions: QuestionSettings | None = None
    workers: int = 1


@dataclass(frozen=True)
class PairsResult:
    """What `build_pairs` made; `summary.json` holds the same.

    Attributes:
        output: the folder.
        name: of the evaluation set in test/ and development/.
        documents: with text, without those that stand in others.
        copies: documents that hold the same text as an earlier one.
        collections, formats: documents that only collect others, and that are there in another format, too.
        contained_examples: one of each.
        boilerplate: blocks that many documents repeat, left out of all of them, and the most frequent ones.
        pairs: training pairs by kind.
        questions: held-out questions: `development`, `test`.
        unit: what was held out whole: document or section.
        largest_group: share of the questions in the largest group of what shares texts; such a group is not held out.
        near_duplicates: training pairs left out since they nearly equal a held-out question or answer.
        skipped: files by reason, and examples.
        generated: what came of the language model; None without one.
    """

    output: Path
    name: str
    files: int
    documents: int
    copies: int
    collections: int
    formats: int
    contained_examples: list[str]
    boilerplate: int
    boilerplate_examples: list[str]
    passages: int
    tokens: int
    pairs: dict[str, int]
    questions: dict[str, int]
    unit: str
    largest_group: float
    near_duplicates: int
    skipped: dict[str, int]
    skipped_examples: dict[str, str]
    generated: Generated | None = None

    @property
    def num_pairs(self) -> int:
        return sum(self.pairs.values())

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "output": str(self.output)}

    def lines(self) -> list[str]:
        """Return what was done as sentences for a person."""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.pairs.items())
        return [
            f"{self.documents:,} documents from {self.files:,} files, {self.passages:,} passages, "
            f"{self.tokens / max(self.passages, 1):.0f} tokens each on average",
            *([f"left out: {self.copies:,} copies of documents"] if self.copies else []),
            *self._contained(),
            *(
                [f"left out: {self.boilerplate:,} blocks that many documents repeat"]
                if self.boilerplate
                else []
            ),
            f"{self.num_pairs:,} training pairs ({kinds})",
            f"held out by {self.unit}: {self.questions['test']:,} questions to report, "
            f"{self.questions['development']:,} to choose by; {self.near_duplicates:,} training pairs left out "
            "as near-duplicates of these",
            *self._connected(),
            *([self.generated.sentence()] if self.generated else []),
            *([f"skipped: {_reasons(self.skipped, self.skipped_examples)}"] if self.skipped else []),
        ]

    def _connected(self) -> list[str]:
        if self.largest_group <= 0.5:
            return []
        return [
            f"{self.largest_group:.0%} of the questions are in one group of {self.unit}s that share texts, which stays "
            "in training whole; only the others could be held out (are there several versions of one text?)"
        ]

    def _contained(self) -> list[str]:
        counts = (self.collections, self.formats)
        reasons = ("that only repeat other documents", "that are there in another format, too")
        return [
            f"left out: {count:,} documents {reason} (such as {example})"
            for count, reason, example in zip(counts, reasons, self.contained_examples, strict=True)
            if count
        ]


def build_pairs(
    sources: Sequence[str | Path],
    output: str | Path,
    settings: PairSettings = PairSettings(),
    *,
    resume: bool = True,
) -> PairsResult:
    """Turn documents into passages, training pairs and held-out questions.

    Args:
        sources: folders and files: Markdown, HTML, reStructuredText, plain text, PDF, Word; tables of texts or pairs;
            `python:NAME` for the docstrings of an installed package, `python:stdlib`, `python:all`.
        output: the folder to write; see the top of this module.
        resume: go on with what an earlier run of the same sources and settings left in `output`.

    Raises:
        UserError: no such source, nothing to read in it, no pair to be made, or `output` holds something else.

    Example:
        >>> result = build_pairs(["docs/"], "pairs/")  # doctest: +SKIP
    """
    output = Path(output)
    files, skipped = list_files(sources)
    work = _Work(output, identity_of(files, settings))
    if work.prepare(resume) and (output / "summary.json").exists():
        return _read_result(output)
    batches = plan_batches(files)
    skipped += parse_batches(batches, work.folder("blocks"), workers=settings.workers)
    blocks = sorted(work.folder("blocks").glob("*.parquet"))
    repeated = find_repeated(blocks)
    if repeated.num_documents == 0:
        _check_any(sources, [], skipped)
    count = token_counter(settings.model)
    for file in tracked(blocks, "Making passages and pairs"):
        make_part(
            file,
            work.folder("parts"),
            repeated,
            count,
            max_tokens=settings.max_tokens,
            overlap=settings.overlap,
            min_tokens=settings.min_tokens,
        )
    generated = _generate(work, settings)
    name = name_of(sources)
    finished = finish(work.folder("parts"), output, name, hold_out=settings.hold_out, seed=settings.seed)
    result = _result(output, name, len(files), skipped, repeated, finished, generated)
    write_json(output / "summary.json", result.to_json())
    shutil.rmtree(work.root)
    return result


def list_files(sources: Sequence[str | Path]) -> tuple[list[SourceFile], list[Skipped]]:
    """Return the files of all sources, and what is skipped.

    Raises:
        UserError: no such source, or no file in it that can be read.
    """
    entries = list(tracked(find_files([str(source) for source in sources]), "Looking for documents"))
    files = [entry for entry in entries if isinstance(entry, SourceFile)]
    skipped = [entry for entry in entries if isinstance(entry, Skipped)]
    _check_any(sources, files, skipped)
    return files, skipped


def _generate(work: "_Work", settings: PairSettings) -> Generated | None:
    if settings.questions is None:
        return None
    encode = None
    if settings.model is not None:
        from conan_embed.device import choose_device
        from conan_embed.encoder.model import EmbeddingModel

        model = EmbeddingModel.load(settings.model).to(choose_device())

        def encode(texts: Sequence[str], role: str) -> np.ndarray:
            return model.encode_query(texts) if role == "query" else model.encode_document(texts)

    cache = work.output / "answers.jsonl"
    return generate_questions(work.folder("parts"), cache, settings.questions, encode, settings.seed)


def _result(
    output: Path,
    name: str,
    num_files: int,
    skipped: list[Skipped],
    repeated: Repeated,
    finished: Finished,
    generated: Generated | None,
) -> PairsResult:
    counts, examples = _count_skipped(skipped)
    return PairsResult(
        output=output,
        name=name,
        files=num_files,
        documents=repeated.num_documents,
        copies=len(repeated.copies),
        collections=len(repeated.contained.collections),
        formats=len(repeated.contained.formats),
        contained_examples=list(repeated.contained.examples),
        boilerplate=len(repeated.blocks),
        boilerplate_examples=repeated.examples,
        **vars(finished),
        skipped=counts,
        skipped_examples=examples,
        generated=generated,
    )


def name_of(sources: Sequence[str | Path]) -> str:
    """Return a name for the evaluation set, from the first source."""
    first = str(sources[0])
    stem = first if first.startswith(PYTHON) else Path(first).expanduser().resolve().stem
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "documents"


def token_counter(model: str | None) -> CountTokens:
    """Return what counts tokens: the tokenizer of `model`, else an estimate."""
    if model is None:
        return estimate_tokens
    # transformers takes seconds to import, and only a model needs it.
    from transformers import AutoTokenizer

    from conan_embed.encoder.loading import local_folder, quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(local_folder(model))

    def count(texts: Sequence[str]) -> np.ndarray:
        if not len(texts):
            return np.zeros(0, np.int64)
        ids = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        return np.fromiter(map(len, ids), np.int64, len(ids))

    return count


def _check_any(sources: Sequence[str | Path], files: list[SourceFile], skipped: list[Skipped]) -> None:
    if files:
        return
    where = ", ".join(map(str, sources))
    if not skipped:
        raise UserError(
            f"{where}: found no files, expected documents (Markdown, HTML, text, PDF, tables, ...)."
        )
    reasons = _reasons(*_count_skipped(skipped))
    raise UserError(f"{where}: found no document with text. Skipped: {reasons}.")


def _reasons(counts: dict[str, int], examples: dict[str, str]) -> str:
    return "; ".join(f"{count:,} x {reason} (such as {examples[reason]})" for reason, count in counts.items())


def _count_skipped(skipped: list[Skipped]) -> tuple[dict[str, int], dict[str, str]]:
    counts = Counter(entry.reason for entry in skipped)
    examples: dict[str, str] = {}
    for entry in skipped:
        examples.setdefault(entry.reason, entry.name)
    return dict(counts.most_common()), examples


class _Work:
    """The folder of intermediate files, and what they were made from."""

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        self.output, self.root, self.identity = output, output / "work", identity

    def folder(self, name: str) -> Path:
        (self.root / name).mkdir(parents=True, exist_ok=True)
        return self.root / name

    def prepare(self, resume: bool) -> bool:
        """Return whether the folder holds work on the same sources and settings; else remove what an earlier run left.

        Raises:
            UserError: the folder holds something else.
        """
        marker = self.output / "pairs.json"
        if marker.exists():
            changes = describe_changes(read_json(marker), self.identity)
            if resume and not changes:
                return True
            if resume:
                console.print(f"{self.output}: made anew: {'; '.join(changes)}.")
            for name in ("work", "test", "development"):
                shutil.rmtree(self.output / name, ignore_errors=True)
            for name in ("summary.json", "passages.parquet", "pairs.parquet"):
                (self.output / name).unlink(missing_ok=True)
        elif self.output.is_dir() and any(self.output.iterdir()):
            raise UserError(
                f"{self.output}: is not empty and was not written by `pairs`; choose another folder."
            )
        write_json(marker, self.identity)
        return False


def identity_of(files: Sequence[SourceFile], settings: PairSettings) -> dict[str, Any]:
    """Return what pairs depend on: the settings, and a hash of the names, sizes and times of the files."""
    stats = json.dumps([(file.name, _stat(file)) for file in files])
    values = asdict(replace(settings, workers=1))
    return {**values, "documents": xxh3_64_hexdigest(stats.encode("utf-8", "surrogateescape"))}


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the keys in which two identities differ; what is a hash is named without its values."""
    return [
        key
        if key in ("documents", "weights", "evaluation_sets")
        else f"{key} (was {before.get(key)}, is {value})"
        for key, value in now.items()
        if before.get(key) != value
    ]


def _stat(file: SourceFile) -> list[tuple[int, int]]:
    """Return size and time of a file, or of every source file of a package."""
    is_package = file.format == "python" and file.path.is_dir()
    stats = [stat_of(path) for path in (sorted(file.path.rglob("*.py")) if is_package else [file.path])]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _read_result(output: Path) -> PairsResult:
    values = read_json(output / "summary.json")
    if values["generated"] is not None:
        values["generated"] = Generated(**values["generated"])
    return PairsResult(**{**values, "output": output})

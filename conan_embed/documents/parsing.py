"""All files to blocks on disk: batch by batch, in several processes, resumable.

    work/blocks/00000.parquet   one row a block (`BLOCKS`), the documents of one batch of files one after the other
    work/blocks/00000.json      what of the batch was skipped and why

A batch is a few megabytes of files: memory stays bounded, and a killed run loses little. A document's number is
its batch times 2^32 plus its place there.
"""

import itertools
import json
import multiprocessing
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from conan_embed.console import tracked
from conan_embed.documents.document import Document
from conan_embed.documents.html import parse_html
from conan_embed.documents.markdown import parse_markdown
from conan_embed.documents.office import UnreadableError, parse_pdf, parse_word
from conan_embed.documents.optional import load_library
from conan_embed.documents.plain import parse_plain
from conan_embed.documents.questions import take_out_questions
from conan_embed.documents.rst import parse_rst
from conan_embed.documents.sources import Skipped, SourceFile, as_unicode, read_text, stat_of
from conan_embed.documents.tables import parse_table
from conan_embed.errors import UserError
from conan_embed.files import atomic_write, write_json

BLOCKS = pa.schema(
    [
        ("document", pa.int64()),
        ("file", pa.string()),
        ("title", pa.string()),
        ("summary", pa.string()),
        ("section", pa.int32()),
        ("headings", pa.list_(pa.string())),
        ("section_kind", pa.string()),
        ("section_line", pa.int64()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("line", pa.int64()),
        ("key", pa.uint64()),  # of the text without case and white space
    ]
)
_BATCH_BYTES = 4 << 20
_BATCH_FILES = 2_000
_ROWS_AT_ONCE = 20_000
_PIECE_CHARACTERS = 2_000_000  # a longer text is parsed in pieces, cut before a heading or an empty line
_LARGEST = {"html": 64 << 20, "rst": 64 << 20, "pdf": 512 << 20, "word": 256 << 20}
_PARSERS = {"markdown": parse_markdown, "html": parse_html, "rst": parse_rst, "plain": parse_plain}


@dataclass(frozen=True)
class Batch:
    """Attributes: `number`; `files`, whose documents it holds."""

    number: int
    files: tuple[SourceFile, ...]


def plan_batches(files: Iterable[SourceFile]) -> list[Batch]:
    """Put files together to batches of bounded size, in order."""
    batches: list[Batch] = []
    waiting: list[SourceFile] = []
    size = 0
    for file in files:
        # How much of a package is documentation is not known before.
        size += _BATCH_BYTES // 8 if file.format == "python" else stat_of(file.path).st_size
        waiting.append(file)
        if size >= _BATCH_BYTES or len(waiting) >= _BATCH_FILES:
            batches.append(Batch(len(batches), tuple(waiting)))
            waiting, size = [], 0
    return [*batches, Batch(len(batches), tuple(waiting))] if waiting else batches


def parse_batches(batches: Sequence[Batch], folder: Path, *, workers: int) -> list[Skipped]:
    """Write the blocks of all batches that are not there yet; return what was skipped of all."""
    todo = [batch for batch in batches if not (folder / f"{batch.number:05d}.json").exists()]
    parse = partial(parse_batch, folder=folder)
    if workers > 1 and len(todo) > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(todo)), mp_context=context) as pool:
            for _ in tracked(pool.map(parse, todo), "Reading documents", total=len(todo)):
                pass
    else:
        for batch in tracked(todo, "Reading documents"):
            parse(batch)
    lists = [json.loads((folder / f"{batch.number:05d}.json").read_text("utf-8")) for batch in batches]
    return [Skipped(*entry) for entry in itertools.chain(*lists)]


def parse_batch(batch: Batch, *, folder: Path) -> None:
    """Parse the files of one batch and write their blocks, aside and renamed."""
    skipped: list[Skipped] = []
    documents = (document for file in batch.files for document in read_documents(file, skipped))
    with (
        atomic_write(folder / f"{batch.number:05d}.parquet") as aside,
        pq.ParquetWriter(aside, BLOCKS, compression="zstd") as writer,
    ):
        for rows in _rows_in_parts(documents, batch.number << 32):
            writer.write_table(pa.Table.from_pydict(rows, BLOCKS))
    names = [[as_unicode(entry.name), as_unicode(entry.reason)] for entry in skipped]
    write_json(folder / f"{batch.number:05d}.json", names)


def read_documents(file: SourceFile, skipped: list[Skipped]) -> Iterator[Document]:
    """Yield the documents of a file; what cannot be read is added to `skipped`."""
    try:
        with_text = False
        for document in _parse(file):
            if document.sections:
                with_text = True
                yield take_out_questions(document)
        if not with_text:
            skipped.append(Skipped(file.name, "no text"))
    except RecursionError:
        skipped.append(Skipped(file.name, "nested too deeply"))
    except UnreadableError as error:
        skipped.append(Skipped(file.name, str(error)))
    except OSError as error:
        skipped.append(Skipped(file.name, f"cannot be read ({error.strerror})"))


def _parse(file: SourceFile) -> Iterator[Document]:
    if file.format != "python":
        file.path.open("rb").close()  # libraries call a file damaged that is gone or not to be read
    most = _LARGEST.get(file.format)
    if most is not None and file.path.stat().st_size > most:
        raise UnreadableError(f"larger than {most >> 20} MiB")
    match file.format:
        case "pdf":
            yield parse_pdf(file.name, file.path)
        case "python":
            yield from _parse_python(file)
        case "word":
            yield parse_word(file.name, file.path)
        case "table":
            try:
                yield from parse_table(file.name, file.path)
            except UserError:
                if file.named:
                    raise
                raise UnreadableError("table without texts or pairs, or damaged") from None
        case "html" | "rst":
            yield _PARSERS[file.format](file.name, read_text(file.path), 1)
        case _:
            for text, line in split_text(read_text(file.path)):
                yield _PARSERS[file.format](file.name, text, line)


def _parse_python(file: SourceFile) -> Iterator[Document]:
    load_library("griffe", "griffelib", file.name, extra="quickstart")
    from conan_embed.documents.docstring_documents import parse_package
    from conan_embed.documents.python_packages import package_at

    yield from parse_package(file.name, package_at(file.path))


def split_text(text: str, most: int = _PIECE_CHARACTERS) -> Iterator[tuple[str, int]]:
    """Yield a text in pieces of about `most` characters, each with its first line; short texts stay whole."""
    start, line = 0, 1
    cut = re.compile(r"\n(?=#{1,3} )|\n\n")
    while start < len(text):
        found = cut.search(text, start + most)
        end = found.end() if found and len(text) - start > 1.5 * most else len(text)
        yield text[start:end], line
        line += text.count("\n", start, end)
        start = end


def _rows_in_parts(documents: Iterable[Document], first: int) -> Iterator[dict[str, list]]:
    rows: dict[str, list] = {name: [] for name in BLOCKS.names}
    for number, document in enumerate(documents, first):
        for position, section in enumerate(document.sections):
            for block in section.blocks:
                values = (
                    *(number, *map(as_unicode, (document.file, document.title, document.summary)), position),
                    *([as_unicode(heading) for heading in section.headings], section.kind, section.line),
                    *(block.kind, as_unicode(block.text), block.line, block_key(block.text)),
                )
                for name, value in zip(BLOCKS.names, values, strict=True):
                    rows[name].append(value)
        if len(rows["document"]) >= _ROWS_AT_ONCE:
            yield rows
            rows = {name: [] for name in BLOCKS.names}
    yield rows


def block_key(text: str) -> int:
    """Return a hash by which copies of a block are known."""
    return xxh3_64_intdigest("".join(text.lower().split()).encode("utf-8", "replace"))

"""Passages and pairs of one batch of documents, on disk.

work/parts/passages-00000.parquet, pairs-00000.parquet      of work/blocks/00000.parquet
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from xxhash import xxh3_64_intdigest

from conan_embed.documents.boilerplate import Repeated
from conan_embed.documents.document import Block
from conan_embed.documents.pairs import make_queries
from conan_embed.documents.passages import CountTokens, StoredSection, cut_sections
from conan_embed.files import atomic_write

PASSAGES = pa.schema(
    [
        *((name, pa.string()) for name in ("doc_id", "text", "title", "headings", "file")),
        *(
            ("line", pa.int64()),
            ("num_tokens", pa.int32()),
            ("document", pa.int64()),
            ("section", pa.int32()),
        ),
        *(("key", pa.uint64()), ("rest", pa.string())),
    ]
)
PAIRS = pa.schema(
    [
        *((name, pa.string()) for name in ("query", "positive", "kind", "file", "heading")),
        *(("line", pa.int64()), ("document", pa.int64()), ("section", pa.int32())),
        *(("query_key", pa.uint64()), ("passage_key", pa.uint64())),
    ]
)
_ROWS_AT_ONCE = 20_000


def make_part(
    blocks: Path,
    folder: Path,
    repeated: Repeated,
    count: CountTokens,
    *,
    max_tokens: int,
    overlap: int,
    min_tokens: int,
) -> None:
    """Write the passages and pairs of one batch, unless they are there."""
    passages_file, pairs_file = (
        folder / f"passages-{blocks.stem}.parquet",
        folder / f"pairs-{blocks.stem}.parquet",
    )
    if passages_file.exists():  # written last
        return
    sections = read_sections(blocks, repeated)
    cut = cut_sections(sections, count, max_tokens=max_tokens, overlap=overlap)
    with (
        atomic_write(passages_file) as passages_aside,
        atomic_write(pairs_file) as pairs_aside,
        _RowWriter(passages_aside, PASSAGES) as passages,
        _RowWriter(pairs_aside, PAIRS) as pairs,
    ):
        used: Counter[str] = Counter()
        for number, (section, parts) in enumerate(cut):
            queries = make_queries(section, parts, repeated, min_tokens=min_tokens)
            rest_of = {
                position: query.rest for query in queries for position in query.positives if query.rest
            }
            keys = [xxh3_64_intdigest(part.text.encode()) for part in parts]
            path = " > ".join(section.headings)
            for position, (part, key) in enumerate(zip(parts, keys, strict=True)):
                doc_id = _doc_id(section.file, part.line, used)
                passages.add(
                    *(doc_id, part.text, section.title, path, section.file, part.line, part.num_tokens),
                    *(section.document, number, key, rest_of.get(position)),
                )
            for query in queries:
                query_key = xxh3_64_intdigest(query.text.lower().encode())
                for position in query.positives:
                    pairs.add(
                        *(query.text, query.rest or parts[position].text, query.kind, section.file, path),
                        *(parts[position].line, section.document, number, query_key, keys[position]),
                    )


def _doc_id(file: str, line: int, used: Counter[str]) -> str:
    """Return `file:line`, with a number behind where several passages begin in one line."""
    name = file if re.search(r"#\d+$", file) else f"{file}:{line}"
    used[name] += 1
    return name if used[name] == 1 else f"{name}.{used[name]}"


class _RowWriter:
    """Writes rows to a Parquet file, a part at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows: list[tuple[Any, ...]] = []
        self.writer = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> "_RowWriter":
        return self

    def add(self, *row: Any) -> None:
        self.rows.append(row)
        if len(self.rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in self.schema)
        arrays = [
            pa.array(list(column), field.type) for column, field in zip(columns, self.schema, strict=True)
        ]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self.rows = []

    def __exit__(self, *_: object) -> None:
        self._flush()
        self.writer.close()


def read_sections(blocks: Path, repeated: Repeated) -> Iterator[StoredSection]:
    """Yield the sections of a batch, without documents that stand in others and without boilerplate."""
    left_out, frequent = set(repeated.left_out.tolist()), set(repeated.blocks.tolist())
    rows = (row for batch in pq.ParquetFile(blocks).iter_batches(_ROWS_AT_ONCE) for row in batch.to_pylist())
    document = -1
    for (number, _), group in itertools.groupby(rows, key=lambda row: (row["document"], row["section"])):
        if number in left_out:
            continue
        every = list(group)
        kept = [row for row in every if not (row["key"] in frequent and row["kind"] in ("text", "list"))]
        first = every[0]
        if not kept:
            continue
        yield StoredSection(
            *(number, first["file"], first["title"], first["summary"], tuple(first["headings"])),
            *(first["section_kind"], first["section_line"], number != document),
            tuple(Block(row["kind"], row["text"], row["line"]) for row in kept),
        )
        document = number

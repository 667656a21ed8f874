"""Documents at scale: 20,000 tiny files, one file of 200 MB, a million passages; memory stays bounded.

`SCALE` makes them smaller, for a quick look: SCALE=0.05 pytest -m scale tests/stories/test_documents_at_scale.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from conan_embed.documents.parts import PAIRS, PASSAGES

pytestmark = pytest.mark.scale
SCALE = float(os.environ.get("SCALE", "1"))
_BUILD = """
import json, resource, sys
from conan_embed.documents.build import PairSettings, build_pairs
result = build_pairs([sys.argv[1]], sys.argv[2], PairSettings())
"""
_FINISH = """
import json, resource, sys
from pathlib import Path
from conan_embed.documents.collection import finish
result = finish(Path(sys.argv[1]), Path(sys.argv[2]), "many", hold_out=0.1, seed=0)
"""
_PEAK = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak": peak, "documents": getattr(result, "documents", 0), "passages": result.passages}))
"""


def _run(program: str, *arguments: Path) -> dict[str, float]:
    """Run a program of its own, so that its memory is nobody else's; return what it prints, MiB."""
    command = [sys.executable, "-c", program + _PEAK, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _section(number: int) -> str:
    return (
        f"## Handling of item {number} in store {number % 97}\n\n"
        f"Item {number} lies on shelf {number * 31 % 1009} and is counted by keeper {number * 17 % 503}. "
        f"It is worth {number * 7} coins. Whoever takes it writes number {number} into the book.\n\n"
    )


def test_twenty_thousand_tiny_files(tmp_path: Path) -> None:
    count = int(20_000 * SCALE)
    for number in range(count):
        folder = tmp_path / "docs" / str(number // 500)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.md").write_text(f"# Note {number}\n\n{_section(number)}")
    found = _run(_BUILD, tmp_path / "docs", tmp_path / "out")
    assert found["documents"] == count
    assert found["peak"] < 1_200


def test_one_file_of_two_hundred_megabytes(tmp_path: Path) -> None:
    size, written, number = int(200 * SCALE) << 20, 0, 0
    (tmp_path / "docs").mkdir()
    with (tmp_path / "docs" / "large.md").open("w") as file:
        while written < size:
            written += file.write("".join(_section(number + place) for place in range(1_000)))
            number += 1_000
    found = _run(_BUILD, tmp_path / "docs", tmp_path / "out")
    assert found["passages"] > 0.9 * number
    assert found["peak"] < 2_500


def test_a_million_passages_are_put_together_in_bounded_memory(tmp_path: Path) -> None:
    count, each = int(1_000_000 * SCALE), 20_000
    parts = tmp_path / "parts"
    parts.mkdir()
    (tmp_path / "out").mkdir()
    for part, start in enumerate(range(0, count, each)):
        numbers = pl.DataFrame({"n": range(start, min(count, start + each))}, schema={"n": pl.Int64})
        text = pl.format(
            "Item {} lies on shelf {} and is counted every day by the keeper of book {}.",
            "n",
            pl.col("n") * 31,
            pl.col("n") * 17,
        )
        common = [pl.format("f{}.md", pl.col("n") // 10).alias("file"), pl.col("n").alias("line")]
        place = [(pl.col("n") // 10).alias("document"), (pl.col("n") % 10).alias("section")]
        key = pl.col("n").hash(1)
        passages = numbers.select(
            pl.format("d{}", "n").alias("doc_id"),
            text.alias("text"),
            pl.lit("").alias("title"),
            pl.lit("").alias("headings"),
            *common,
            pl.lit(20).alias("num_tokens"),
            *place,
            key.alias("key"),
            pl.lit(None, pl.String).alias("rest"),
        )
        pairs = numbers.select(
            pl.format("what about item {} of shelf {}?", "n", pl.col("n") * 31).alias("query"),
            text.alias("positive"),
            pl.lit("heading").alias("kind"),
            pl.lit("").alias("heading"),
            *common,
            *place,
            pl.col("n").hash(2).alias("query_key"),
            key.alias("passage_key"),
        )
        for name, frame, schema in (("passages", passages, PASSAGES), ("pairs", pairs, PAIRS)):
            pq.write_table(
                frame.select(schema.names).to_arrow().cast(schema), parts / f"{name}-{part:05d}.parquet"
            )
    found = _run(_FINISH, parts, tmp_path / "out")
    assert found["passages"] == count
    assert found["peak"] < 2_500

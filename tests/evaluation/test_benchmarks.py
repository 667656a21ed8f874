"""Benchmarks through mteb's classes: the figures are those of mteb called by hand, from local copies, offline."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.evaluation import benchmarks
from conan_embed.evaluation.benchmarks import evaluate_benchmark, result_name
from conan_embed.evaluation.results import EvaluationResult, read_result
from conan_embed.files import read_json
from tests.support.evaluation_fakes import small_tables, write_tables

SHARED = Path(__file__).parents[2] / "../shared/data/eval"
PROMPTS = {"query": "how ", "passage": "read ", "sts": "好"}


def test_without_mteb(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"mteb is not installed; expected pip install \"conan-embed\[mteb\]\""
    ):
        evaluate_benchmark(tiny_model("bert"), tmp_path, benchmark="MTEB(cmn, v1)")


def test_names_of_results(tmp_path):
    (tmp_path / "my-run" / "model").mkdir(parents=True)
    assert result_name(str(tmp_path / "my-run" / "model")) == "local/my-run"
    assert result_name(str(tmp_path / "my-run")) == "local/my-run"
    assert result_name("org/name") == "org/name"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """mteb without a network, and its caches in a folder of their own."""
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("mteb")

    def refuse(*_):
        raise OSError("a test reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def counted(monkeypatch):
    """The texts that the model encodes, in order."""
    texts: list[str] = []
    encode = EmbeddingModel.encode

    def counting(self, given, *, prompt="", **options):
        texts.extend(prompt + text for text in given)
        return encode(self, given, prompt=prompt, **options)

    monkeypatch.setattr(EmbeddingModel, "encode", counting)
    return texts


@pytest.mark.usefixtures("offline")
def test_every_type_is_encoded_once_for_all_widths_and_not_computed_again(tiny_model, tmp_path, counted):
    tables = small_tables()
    folder = write_tables(tmp_path / "sets", tables)
    model = tiny_model("bert", prompts=PROMPTS)

    def run(**options):
        counted.clear()
        return evaluate_benchmark(model, tmp_path / "out", local=folder, widths=[8, 16], **options)

    results = run()
    per_task = {  # a text of two tasks, or under two prompts, is encoded for each
        "retrieval/Small": [
            *{row["text"] for row in tables["retrieval/Small/queries"][:20]},
            *{f"{row['title']} {row['text']}".strip() for row in tables["retrieval/Small/corpus"]},
        ],
        "sts/Small": {text for row in tables["sts/Small"] for text in (row["text_a"], row["text_b"])},
        "clustering/Small": {row["text"] for row in tables["clustering/Small"]},
    }
    for key, texts in per_task.items():
        assert set(results[key].by_width) == {32, 8, 16}
        counted.clear()
        other = evaluate_benchmark(model, tmp_path / "other", local=folder, tasks=[key], widths=[8, 16])
        assert len(counted) == len(texts), key
        assert other[key].by_width == results[key].by_width
    assert set(results) == {"/".join(name.split("/")[:2]) for name in tables}  # six of them are called Small


@pytest.mark.usefixtures("offline")
def test_texts_are_given_the_instructions_that_mteb_has_for_the_task(tiny_model, tmp_path, counted):
    mteb = pytest.importorskip("mteb")
    tables = {key: rows for key, rows in small_tables().items() if key.startswith(("retrieval", "sts/Small"))}
    tables["sts/AFQMC"] = tables["sts/Small"][:9]
    folder = write_tables(tmp_path / "sets", tables)
    model = tiny_model("bert", prompts={"query": "Instruct: Find it\nQuery: ", "passage": "read "})
    plain = evaluate_benchmark(model, tmp_path / "out", local=folder, precision="float32")
    counted.clear()
    result = evaluate_benchmark(model, tmp_path / "out", local=folder, precision="float32", instructions=True)
    afqmc = mteb.get_task("AFQMC").metadata.prompt or "Retrieve semantically similar text."
    expected = {"read " + f"{row['title']} {row['text']}".strip() for row in tables["retrieval/Small/corpus"]}
    for instruction, texts in (
        (
            "Retrieve text based on user query.",
            [row["text"] for row in tables["retrieval/Small/queries"][:20]],
        ),
        (afqmc, [row[side] for row in tables["sts/AFQMC"] for side in ("text_a", "text_b")]),
        (
            "Retrieve semantically similar text.",
            [row[side] for row in tables["sts/Small"] for side in ("text_a", "text_b")],
        ),
    ):
        expected |= {f"Instruct: {instruction}\nQuery: {text}" for text in texts}
    assert set(counted) == expected
    assert result["retrieval/Small"].main != plain["retrieval/Small"].main, (
        "not the result of the other prompts"
    )


@pytest.mark.usefixtures("offline")
def test_benchmark_of_hub_copies(tiny_model, tmp_path, counted):
    """Copies as the hub has them; what is there is evaluated, once, and anew when the data changes."""
    copies = tmp_path / "copies"
    rng = np.random.default_rng(0)
    words = ["Python", "file", "read", "lines", "天气", "公园", "模型", "数据"]

    def text() -> str:
        return " ".join(rng.choice(words, size=4))

    def write(path: str, rows: list[dict]) -> None:
        (copies / path).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_parquet(copies / path)

    pairs = [{"sentence1": text(), "sentence2": text(), "score": int(rng.integers(2))} for _ in range(40)]
    write("C-MTEB/AFQMC/data/validation-00000-of-00001.parquet", pairs)
    write(
        "CovidRetrieval/corpus/dev.parquet",
        [{"_id": f"d{i}", "title": "", "text": text()} for i in range(30)],
    )
    write("CovidRetrieval/queries/dev.parquet", [{"_id": f"q{i}", "text": text()} for i in range(10)])
    judged = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(10)]
    write("CovidRetrieval/qrels/dev.parquet", judged)
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: dev\n    path: {folder}/dev.parquet\n"
        for name, folder in (("corpus", "corpus"), ("queries", "queries"), ("default", "qrels"))
    )
    (copies / "CovidRetrieval/README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    model = tiny_model("bert", prompts=PROMPTS)

    def run() -> EvaluationResult:
        counted.clear()
        options = {"benchmark": "C-MTEB", "local": copies, "name": "org/tiny"}
        return evaluate_benchmark(model, tmp_path / "out", **options)

    first = run()
    assert set(first) == {"retrieval/CovidRetrieval", "sts/AFQMC"} and first.missing == []
    assert any(line.startswith("how ") for line in counted) and any(line.startswith("好") for line in counted)
    (saved,) = (tmp_path / "out/results/org__tiny").iterdir()
    assert {"AFQMC.json", "CovidRetrieval.json", "model_meta.json"} <= {path.name for path in saved.iterdir()}
    assert read_json(saved / "model_meta.json")["embed_dim"] == 32
    assert read_result(tmp_path / "out/org__tiny.json") == first

    assert run() == first and not counted
    write(
        "C-MTEB/AFQMC/data/validation-00000-of-00001.parquet",
        [{**row, "score": 1 - row["score"]} for row in pairs],
    )
    again = run()
    assert counted and not any(line.startswith(("how ", "read ")) for line in counted)
    assert again["sts/AFQMC"].main == pytest.approx(-first["sts/AFQMC"].main, abs=1e-6)

    for wrong, words in (
        ({"benchmark": "MTEB(cmn, v0)"}, "mteb has none of that name.*MTEB"),
        ({"benchmark": "C-MTEB", "tasks": ["AFQM"]}, "'AFQM' is not among.*'AFQMC'"),
        ({"tasks": ["AFQM"]}, "'AFQM': mteb has none of that name.*did you mean"),
        ({"benchmark": "C-MTEB", "local": tmp_path / "out"}, "holds none of the data sets"),
        ({"benchmark": "C-MTEB", "widths": [99]}, "width 99: the model has 32"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate_benchmark(model, tmp_path / "out", **wrong)


@pytest.mark.usefixtures("offline")
@pytest.mark.skipif(not SHARED.exists(), reason="the development sets are not here")
def test_figures_are_those_of_mteb_by_hand(tiny_model, tmp_path, monkeypatch):
    """By hand: sentence-transformers loads the folder, mteb's own wrapper calls it, the data is read here."""
    mteb = pytest.importorskip("mteb")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    # mteb picks prompts by type of task or of text.
    theirs = {"query": "how ", "document": "read ", "STS": "好", "Classification": "好"}
    model = tiny_model("bert", prompts=PROMPTS, layers=1)
    model.save(tmp_path / "model")
    wanted = ["sts/STSB", "classification/EPRSTMT", "retrieval/XQuAD-en-zh"]

    def evaluated() -> EvaluationResult:
        options = {"tasks": wanted, "widths": [16], "precision": "float32"}
        return evaluate_benchmark(model, tmp_path / "out", local=SHARED, **options)

    ours = evaluated()
    monkeypatch.setattr(EmbeddingModel, "encode", None)  # a second call has nothing left to encode
    assert evaluated() == ours

    def parquet(path: str, **names: str) -> Dataset:
        return Dataset.from_polars(pl.read_parquet(SHARED / f"{path}.parquet").rename(names))

    def own(base: type, type_: str, name: str, main_score: str, **attributes: Any) -> Any:
        metadata = TaskMetadata(
            name=name,
            description="by hand",
            type=type_,
            dataset={"path": "none", "revision": "none"},
            eval_splits=["test"],
            eval_langs=["cmn-Hans"],
            main_score=main_score,
            category="t2t",
            modalities=["text"],
        )
        return type(name, (base,), {"metadata": metadata, **attributes})()

    def tasks() -> list:
        sts = mteb.get_task("STSB").filter_eval_splits(["test"])
        sts.dataset = DatasetDict({"test": parquet("sts/STSB", text_a="sentence1", text_b="sentence2")})
        labelled = own(AbsTaskClassification, "Classification", "EPRSTMT", "accuracy", samples_per_label=32)
        numbers = pl.col("label").replace_strict({"Negative": 0, "Positive": 1})
        labelled.dataset = DatasetDict(
            {
                part: Dataset.from_polars(
                    pl.read_parquet(SHARED / f"classification/EPRSTMT/{part}.parquet").with_columns(numbers)
                )
                for part in ("train", "test")
            }
        )
        searched = own(AbsTaskRetrieval, "Retrieval", "XQuAD", "ndcg_at_10")
        judged: dict[str, dict[str, int]] = {}
        for row in parquet("retrieval/XQuAD-en-zh/qrels"):
            judged.setdefault(row["query_id"], {})[row["doc_id"]] = int(row["score"])
        split = {
            "corpus": parquet("retrieval/XQuAD-en-zh/corpus", doc_id="id"),
            "queries": parquet("retrieval/XQuAD-en-zh/queries", query_id="id"),
            "relevant_docs": judged,
            "top_ranked": None,
        }
        searched.dataset = {"default": {"test": split}}
        for task in (sts, labelled, searched):
            task.data_loaded = True
        return [sts, labelled, searched]

    monkeypatch.undo()
    for width in (32, 16):
        by_hand = sentence_transformers.SentenceTransformer(
            str(tmp_path / "model"), prompts=theirs, truncate_dim=width, device="cpu"
        )
        found = mteb.evaluate(
            by_hand,
            tasks(),
            cache=None,
            co2_tracker=False,
            show_progress_bar=False,
            encode_kwargs={"normalize_embeddings": True},  # sentence-transformers leaves prefixes as they are
        )
        for key, result in zip(wanted, found.task_results, strict=True):
            # Packed and padded embeddings differ by rounding, which may turn a decision or two of thousands.
            assert ours[key].by_width[width] == pytest.approx(result.get_score(), abs=1e-3), (
                key,
                width,
            )

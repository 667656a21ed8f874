"""Our figures are those of mteb's own classes, where mteb is installed (it is not needed otherwise)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conan_embed.evaluation import evaluate
from tests.support.evaluation_fakes import WORDS, BagOfWords, small_tables, write_tables

pytest.importorskip("mteb")

METADATA = {
    "description": "small sets made for this test",
    "reference": "https://example.org",
    "dataset": {"path": "none", "revision": "none"},
    "category": "t2t",
    "eval_splits": ["test"],
    "eval_langs": ["cmn-Hans"],
    "date": ("2024-01-01", "2024-01-01"),
    "dialect": [],
    "domains": [],
    "task_subtypes": [],
    "license": "cc0-1.0",
    "annotations_creators": "derived",
    "modalities": ["text"],
    "sample_creation": "created",
    "bibtex_citation": "",
}


class Encoder:
    """The same model through the interface of mteb."""

    mteb_model_meta = None

    def __init__(self, *args: Any, **options: Any) -> None:
        self.model = BagOfWords()

    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **options):
        prompts = {"query": "query", "document": "passage", None: "sts"}
        prompt = self.model.prompts[prompts[prompt_type and prompt_type.value]]
        return self.model.encode([text for batch in inputs for text in batch["text"]], prompt=prompt)

    def similarity(self, first, second):
        return np.asarray(first) @ np.asarray(second).T

    def similarity_pairwise(self, first, second):
        return (np.asarray(first) * np.asarray(second)).sum(axis=1)


def by_mteb(base: type, type_: str, main_score: str, data: Any, **attributes: Any) -> dict[str, float]:
    from mteb.abstasks.task_metadata import TaskMetadata

    def load_data(self, **options: Any) -> None:
        self.dataset, self.data_loaded = data, True

    metadata = TaskMetadata(type=type_, name=f"Local{type_}", main_score=main_score, **METADATA)
    task = type(f"Local{type_}", (base,), {"metadata": metadata, "load_data": load_data, **attributes})()
    return task.evaluate(Encoder(), "test", encode_kwargs={})["default"]


def mteb_scores(tables: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification
    from mteb.abstasks.clustering_legacy import AbsTaskClusteringLegacy
    from mteb.abstasks.pair_classification import AbsTaskPairClassification
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.text.bitext_mining import AbsTaskBitextMining

    def split(rows) -> Dataset:
        return Dataset.from_list(rows)

    def searched(queries, corpus, judged, candidates=None) -> dict[str, Any]:
        parts = {"queries": split(queries), "corpus": split(corpus)}
        return {"default": {"test": RetrievalSplitData(**parts, relevant_docs=judged, top_ranked=candidates)}}

    judged: dict[str, dict[str, int]] = {}
    for row in tables["retrieval/Small/qrels"]:
        judged.setdefault(row["query_id"], {})[row["doc_id"]] = row["score"]
    retrieval = searched(
        [{"id": row["query_id"], "text": row["text"]} for row in tables["retrieval/Small/queries"]],
        [
            {"id": row["doc_id"], "title": row["title"], "text": row["text"]}
            for row in tables["retrieval/Small/corpus"]
        ],
        judged,
    )
    queries, corpus, relevant, candidates = [], [], {}, {}
    for number, row in enumerate(tables["reranking/Small"]):
        name = f"test_query{number}"
        queries.append({"id": name, "text": row["query"]})
        texts = {f"apositive_{name}_{i:05d}": text for i, text in enumerate(row["positive"])}
        relevant[name] = dict.fromkeys(texts, 1)
        texts |= {f"negative_{name}_{i:05d}": text for i, text in enumerate(row["negative"])}
        relevant[name] = dict.fromkeys(texts, 0) | relevant[name]
        candidates[name] = list(texts)
        corpus += [{"id": name, "title": "", "text": text} for name, text in texts.items()]
    reranking = searched(queries, corpus, relevant, candidates)

    def pairs(name: str, score: str) -> DatasetDict:
        rows = [{"sentence1": r["text_a"], "sentence2": r["text_b"], score: r["score"]} for r in tables[name]]
        return DatasetDict({"test": split(rows)})

    labelled = DatasetDict(
        {part: split(tables[f"classification/Small/{part}"]) for part in ("train", "test")}
    )
    clustering = {
        name: [[row[name[:-1]] for row in tables["clustering/Small"]]] for name in ("texts", "labels")
    }
    clustering = {"sentences": clustering["texts"], "labels": clustering["labels"]}
    bitext = [{"sentence1": row["zh"], "sentence2": row["en"]} for row in tables["bitext/Small"]]
    return {
        "retrieval/Small": by_mteb(AbsTaskRetrieval, "Retrieval", "ndcg_at_10", retrieval),
        "reranking/Small": by_mteb(AbsTaskRetrieval, "Reranking", "map_at_1000", reranking),
        "sts/Small": by_mteb(AbsTaskSTS, "STS", "cosine_spearman", pairs("sts/Small", "score")),
        "pair_classification/Small": by_mteb(
            AbsTaskPairClassification,
            "PairClassification",
            "max_accuracy",
            pairs("pair_classification/Small", "labels"),
        ),
        "classification/Small": by_mteb(
            AbsTaskClassification, "Classification", "accuracy", labelled, samples_per_label=32
        ),
        "clustering/Small": by_mteb(
            AbsTaskClusteringLegacy,
            "Clustering",
            "v_measure",
            DatasetDict({"test": Dataset.from_dict(clustering)}),
        ),
        "bitext/Small": by_mteb(
            AbsTaskBitextMining, "BitextMining", "f1", {"default": {"test": split(bitext)}}
        ),
    }


def test_our_figures_are_those_of_mteb(tmp_path: Path) -> None:
    tables = small_tables()
    # Equal documents score equal here but not to the last bit in every matrix product: take them out.
    for row, word in zip(tables["retrieval/Small/corpus"][9:14], WORDS, strict=False):
        row["text"] += f" {word}"
    # Fewer words in common, so that no score is perfect.
    for row in tables["classification/Small/train"] + tables["classification/Small/test"]:
        row["text"] = row["text"].rsplit(" ", 1)[0]
    ours = evaluate(BagOfWords(), write_tables(tmp_path, tables))
    compared = 0
    for key, scores in mteb_scores(tables).items():
        # mteb rounds nDCG, MAP and recall to five digits.
        tolerance = 5.1e-6 if key.startswith(("retrieval", "reranking")) else 1e-6
        for name, score in scores.items():
            mine = ours[key].scores.get(name)
            if mine is not None and name != "main_score":
                assert mine == pytest.approx(score, abs=tolerance), (key, name)
                compared += 1
    assert compared == 15

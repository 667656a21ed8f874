"""Two doors, one figure: a folder scored by our metrics and by the classes of mteb, with all that folders hold."""

import pytest

from conan_embed.evaluation import evaluate
from conan_embed.evaluation.benchmarks import METRICS, evaluate_benchmark
from conan_embed.files import write_json
from tests.support.evaluation_fakes import small_tables, write_lines, write_tables

pytest.importorskip("mteb")
PROMPTS = {"query": "how ", "passage": "read ", "sts": "好"}


def retrieval_with_equal_ids(folder, extra=()):
    """A BEIR folder whose queries have ids of documents, some of them judged; `extra` judgements."""
    texts = [
        "the weather",
        "a large file",
        "天气 很好",
        "深度 学习",
        "walk in the park",
        "line by line",
        "Python",
        "首都",
    ]
    write_lines(folder / "corpus.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(texts)])
    write_lines(folder / "queries.jsonl", [{"_id": str(i), "text": texts[i] + " 好"} for i in range(5)])
    judged = [(0, 1, 2), (0, 4, 1), (1, 5, 1), (2, 2, 1), (3, 6, 1), (3, 7, 0), (4, 0, 3), *extra]
    rows = [{"query-id": str(q), "corpus-id": str(d), "score": s} for q, d, s in judged]
    write_lines(folder / "qrels.jsonl", rows)


@pytest.fixture
def folder(tmp_path):
    tables = small_tables()
    for row in tables["retrieval/Small/corpus"][9:14]:  # equal texts are ties to the last bit, or not
        row["text"] += " " + row["doc_id"]
    folder = write_tables(tmp_path / "sets", tables)
    for name in ("SciFact", "ArguAna", "Mine", "FiQA2018", "Missing"):
        (folder / "retrieval" / name).mkdir()
    retrieval = folder / "retrieval"
    retrieval_with_equal_ids(retrieval / "SciFact")
    retrieval_with_equal_ids(retrieval / "ArguAna")
    retrieval_with_equal_ids(retrieval / "Mine")
    write_json(retrieval / "Mine/task.json", {"ignore_identical_ids": True})
    retrieval_with_equal_ids(retrieval / "FiQA2018")
    write_json(retrieval / "FiQA2018/task.json", {"ignore_identical_ids": False})
    retrieval_with_equal_ids(retrieval / "Missing", extra=[(1, "gone", 1), (4, "lost", 2), ("nobody", 3, 1)])
    with (retrieval / "Missing/corpus.jsonl").open("a") as file:
        file.write('{"_id": "empty", "title": "", "text": ""}\n')
    return folder


def test_a_folder_has_the_same_figures_through_both_doors(folder, tiny_model, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    model = tiny_model("bert", prompts=PROMPTS)
    # Prompts of its own for a set that mteb knows, one that it does not, and one of symmetric texts.
    own = {"query": "深度 ", "passage": "树 ", "sts": "月亮 "}
    model.dataset_prompts = dict.fromkeys(("SciFact", "FiQA2018", "Missing", "Other"), own)
    options = {"widths": [32, 8], "precision": "float32"}
    ours = evaluate(model, folder, **options)
    theirs = evaluate_benchmark(model, tmp_path / "out", local=folder, **options)
    assert set(ours) == set(theirs) and theirs.missing == []
    compared = 0
    for key, task in ours.items():
        for name in set(METRICS) & set(task.scores) & set(theirs[key].scores):
            # mteb rounds metrics of retrieval to five digits.
            assert theirs[key].scores[name] == pytest.approx(task.scores[name], abs=1e-5), (key, name)
            compared += 1
        if task.metric == theirs[key].metric:
            assert theirs[key].by_width == pytest.approx(task.by_width, abs=1e-5), key
    assert compared == 6 * 4 + 2 + 2 * 2 + 2 + 2 + 1 + 2
    general = tiny_model("bert", prompts=PROMPTS)
    for key, task in evaluate(general, folder, **options).items():
        changes = task.scores != ours[key].scores
        assert changes == (key.partition("/")[2] in model.dataset_prompts), key
    # What the doors agree on is not the same everywhere: excluded documents and missing ones do matter.
    names = ("SciFact", "ArguAna", "Missing")
    assert len({round(ours[f"retrieval/{name}"].main, 4) for name in names}) == 3
    assert ours["retrieval/Mine"].scores == ours["retrieval/ArguAna"].scores
    assert ours["retrieval/FiQA2018"].scores == ours["retrieval/SciFact"].scores

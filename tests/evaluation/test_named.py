"""Sets of mteb by name: loaded once, scored as mteb scores them, and refused in one sentence."""

import numpy as np
import pytest

from conan_embed.errors import UserError
from conan_embed.evaluation import evaluate
from conan_embed.evaluation.benchmarks import evaluate_benchmark
from conan_embed.evaluation.named import evaluation_tasks
from conan_embed.recipes.sections import Evaluation
from tests.support.evaluation_fakes import WORDS, sentence, small_tables, write_tables

mteb = pytest.importorskip("mteb")
NAMES = ["NanoNQRetrieval", "NanoArguAnaRetrieval"]


@pytest.fixture
def hub(monkeypatch):
    """The hub's answers: small sets in mteb's own form; returns the names that were loaded."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    loaded = []

    def load_data(self, **_):
        loaded.append(self.metadata.name)
        random = np.random.default_rng(len(self.metadata.name))
        texts = [f"{sentence(random)} {WORDS[i % 16]}" for i in range(40)]
        corpus = {"id": [f"d{i}" for i in range(40)], "title": [""] * 40, "text": texts}
        queries = {"id": [f"d{i}" for i in range(8)], "text": [f"{texts[i]} 好" for i in range(8)]}
        judged = {f"d{i}": {f"d{i + 9}": 1, f"d{i}": 2} for i in range(8)}
        split = {"corpus": Dataset.from_dict(corpus), "queries": Dataset.from_dict(queries)}
        split |= {"relevant_docs": judged, "top_ranked": None}
        self.dataset = {self.hf_subsets[0]: {self.eval_splits[0]: split}}
        self.data_loaded = True

    monkeypatch.setattr(AbsTaskRetrieval, "load_data", load_data)
    return loaded


def test_named_sets_are_loaded_once_and_score_as_in_mteb(hub, tiny_model, tmp_path):
    settings = Evaluation(mteb=NAMES)
    tasks = evaluation_tasks(settings, tmp_path / "cache")
    assert [task.key for task in tasks] == [f"retrieval/{name}" for name in NAMES]
    assert hub == NAMES and evaluation_tasks(settings, tmp_path / "cache") == tasks and hub == NAMES
    model = tiny_model("bert", prompts={"query": "how ", "passage": "read ", "sts": ""})
    ours = evaluate(model, tasks, precision="float32")
    theirs = evaluate_benchmark(model, tmp_path / "out", tasks=NAMES, precision="float32")
    for key, task in theirs.items():
        assert ours[key].main == pytest.approx(task.main, abs=5e-6), key
    assert 0 < ours.average < 1


def test_they_stand_beside_a_folder(hub, tmp_path):
    folder = write_tables(tmp_path / "sets", small_tables())
    settings = Evaluation(folder=str(folder), mteb=NAMES[:1], tasks=["sts", f"retrieval/{NAMES[0]}"])
    keys = [task.key for task in evaluation_tasks(settings, tmp_path / "cache")]
    assert keys == ["sts/Other", "sts/Small", f"retrieval/{NAMES[0]}"]
    (folder / "retrieval" / "Small").rename(folder / "retrieval" / NAMES[0])
    with pytest.raises(UserError, match=r"retrieval/NanoNQRetrieval is in evaluation\.folder, too"):
        evaluation_tasks(settings, tmp_path / "cache")
    assert evaluation_tasks(Evaluation(), tmp_path) == []


def test_nano_beir_is_thirteen_sets(hub, tmp_path):
    assert len(evaluation_tasks(Evaluation(mteb=["NanoBEIR"]), tmp_path / "cache")) == 13


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NanoNQ", "task 'NanoNQ': mteb has none of that name"),
        ("STSBenchmark", "STSBenchmark is no plain retrieval in one language"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(hub, tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        evaluation_tasks(Evaluation(mteb=[name]), tmp_path)


def test_without_a_connection_there_is_one_sentence(monkeypatch, tmp_path):
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    def load_data(self, **_):
        raise ConnectionError("Couldn't reach the hub\nmore")

    monkeypatch.setattr(AbsTaskRetrieval, "load_data", load_data)
    with pytest.raises(
        UserError, match=r"NanoNQRetrieval: cannot be loaded from the hub \(Couldn't reach the hub\)"
    ):
        evaluation_tasks(Evaluation(mteb=["NanoNQRetrieval"]), tmp_path)
    assert not (tmp_path / "mteb" / "retrieval" / "NanoNQRetrieval").exists()

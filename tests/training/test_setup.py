"""The parts of a run from its sections: model, data, what plans the steps, epochs."""

import json
from types import SimpleNamespace

import pytest
import torch

from conan_embed.planning.planner import Planner
from conan_embed.planning.streaming import StreamPlanner
from conan_embed.recipes.data import ClassificationData, Data, RetrievalData
from conan_embed.recipes.sections import Model, Step
from conan_embed.training.setup import epochs_of, load_base_model, load_data, make_source
from tests.tiny_models import make_tiny_model


@pytest.fixture
def folder(tmp_path):
    make_tiny_model("bert").save(tmp_path / "model")
    rows = [{"query": f"read {i}", "positive": f"file {i}"} for i in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def drawn_weight(model):
    (weight,) = [
        p for name, p in model.named_parameters() if not name.startswith("encoder.") and p.shape == (40, 32)
    ]
    return weight


def test_a_dense_layer_that_the_base_lacks_is_drawn_from_the_seed(folder):
    settings = Model(base=str(folder / "model"), dense_width=40)
    one, same, other = (drawn_weight(load_base_model(settings, seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_the_section_decides_over_the_base_model(folder):
    settings = Model(
        base=str(folder / "model"), pooling="cls", widths=[8], max_length=20, prompts={"query": "q: "}
    )
    model = load_base_model(settings, 0)
    assert (model.pooling, model.widths, model.max_length) == ("cls", (32, 8), 20)
    assert model.prompts["query"] == "q: "


def test_data_read_a_second_time_come_from_the_cache(folder, monkeypatch):
    model = make_tiny_model("bert")
    data = Data(retrieval=[RetrievalData(name="pairs", path=str(folder / "pairs.jsonl"))])
    tasks = load_data(data, folder / "cache", model)
    tokenised, tokenize = [], model.tokenize
    monkeypatch.setattr(model, "tokenize", lambda texts: (tokenised.extend(texts), tokenize(texts))[1])
    again = load_data(data, folder / "cache", model)
    assert not [text for text in tokenised if "read" in text or "file" in text]
    assert again.store.identity() == tasks.store.identity()
    assert again.retrieval[0].query_Q.tolist() == tasks.retrieval[0].query_Q.tolist()


def test_what_plans_the_steps_is_what_the_data_allow(folder):
    import polars as pl

    model, step = make_tiny_model("bert"), Step(queries=2, num_negatives=0, sts_pairs=0)
    pl.read_ndjson(folder / "pairs.jsonl").write_parquet(folder / "pairs.parquet")
    sets = [RetrievalData(name="pairs", path=str(folder / "pairs.parquet"), negative_source="none")]
    source, tasks = make_source(Data(retrieval=sets), step, 0, folder / "cache", model)
    assert isinstance(source, Planner) and len(tasks.retrieval[0]) == 6
    source, tasks = make_source(Data(retrieval=sets, stream=True), step, 0, folder / "cache", model)
    assert isinstance(source, StreamPlanner) and tasks is None


def test_epochs_are_known_where_all_queries_come_equally_often():
    source = SimpleNamespace(steps_for=lambda epochs: 10)
    plain = RetrievalData(name="a", path="p")
    assert epochs_of(Data(retrieval=[plain]), Step(), source, 25) == 2.5
    weighted = ClassificationData(name="b", path="p", weight=1.0)
    assert epochs_of(Data(retrieval=[plain], classification=[weighted]), Step(), source, 25) is None
    assert epochs_of(Data(retrieval=[plain]), Step(sampling_temperature=2.0), source, 25) is None

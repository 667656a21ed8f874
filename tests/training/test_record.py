"""run.json: what is not known yet is left out, except that the run is not finished."""

import datetime
from dataclasses import replace

from conan_embed.planning.plan import DatasetSize, DataSummary
from conan_embed.training.record import describe_run, timestamp
from tests.tiny_models import make_tiny_model


def test_what_a_run_is_and_what_it_became():
    model = make_tiny_model("bert", widths=(8,))
    data = DataSummary((DatasetSize("retrieval", "pairs", 20),), texts=50, tokens=400)
    begun = describe_run(model, data, base="b", precision="float32", num_steps=7, started=timestamp(0.0))
    values = begun.to_json()
    assert values["started"] == "1970-01-01T00:00:00+00:00"
    assert values["finished"] is values["seconds"] is None
    assert "chunk_tokens" not in values and "data" not in values
    assert list(values["datasets"]) == [{"task": "retrieval", "name": "pairs", "rows": 20}]
    assert (values["steps"], values["width"], values["widths"], values["base"]) == (7, 32, [32, 8], "b")
    assert values["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    ended = replace(
        begun, finished=timestamp(90.0), seconds=90.0, chunk_tokens=16, compiled_graphs=0
    ).to_json()
    assert ended["chunk_tokens"] == 16 and ended["compiled_graphs"] == 0
    assert {key for key in ended if ended[key] != values.get(key)} == {
        *("finished", "seconds", "chunk_tokens", "compiled_graphs")
    }


def test_timestamps_are_utc_whatever_the_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    moment = datetime.datetime(2026, 5, 1, 12, 30, tzinfo=datetime.UTC)
    assert timestamp(moment.timestamp()) == "2026-05-01T12:30:00+00:00"

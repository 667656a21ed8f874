"""`conan-embed evaluate`: one door or the other, and what is asked for reaches it."""

import json

import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import NotFinite, UserError
from conan_embed.evaluation.command import evaluate_as_asked
from conan_embed.evaluation.results import read_result
from tests.support.evaluation_fakes import small_tables, write_tables
from tests.tiny_models import make_tiny_model


@pytest.fixture
def asked(tmp_path):
    tables = {key: rows for key, rows in small_tables().items() if key.startswith(("sts", "bitext"))}
    folder = write_tables(tmp_path / "sets", tables)
    make_tiny_model("bert").save(tmp_path / "model")

    def ask(folder=folder, **changes):
        options = {
            "benchmark": None,
            "tasks": None,
            "local": None,
            "widths": None,
            "vectors": None,
            "output": None,
        }
        options |= {"precision": "bfloat16", "instructions": False, **changes}
        return evaluate_as_asked(str(tmp_path / "model"), folder, **options)

    return ask


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_reaches_the_model(asked, monkeypatch, precision):
    seen, encode = set(), EmbeddingModel.encode

    def spy(self, texts, **options):
        seen.add(options.get("precision"))
        return encode(self, texts, **options)

    monkeypatch.setattr(EmbeddingModel, "encode", spy)
    assert asked(precision=precision).precision == precision
    assert seen == {precision}


def test_scores_are_written(asked, tmp_path):
    result = asked(output=tmp_path / "out" / "scores.json", widths=["8,16"], tasks=["sts"])
    assert read_result(tmp_path / "out/scores.json") == result
    assert set(json.loads((tmp_path / "out/scores.json").read_text())["tasks"]) == {"sts/Small", "sts/Other"}
    assert result.widths == (8, 16)


def test_one_door_at_a_time(asked, tmp_path):
    with pytest.raises(UserError, match="found a folder and --benchmark or --local"):
        asked(benchmark="C-MTEB")
    with pytest.raises(UserError, match="nothing to evaluate on"):
        asked(folder=None)
    with pytest.raises(UserError, match="width 'x': not a number"):
        asked(widths=["x"])
    with pytest.raises(UserError, match=r"vectors 'int4': no such kind.*expected int8 or binary"):
        asked(vectors=["int4"])
    with pytest.raises(UserError, match="found --vectors without a folder"):
        asked(folder=None, tasks=["AFQMC"], vectors=["int8"])
    with pytest.raises(UserError, match="found --instructions beside a folder"):
        asked(instructions=True)


@pytest.mark.parametrize("door", ["folder", "local"])
def test_a_model_that_gives_no_numbers_ends_either_door(asked, tmp_path, monkeypatch, door):
    if door == "local":
        pytest.importorskip("mteb")
    encode = EmbeddingModel.encode

    def broken(self, texts, **options):
        return encode(self, texts, **options) * float("nan")

    monkeypatch.setattr(EmbeddingModel, "encode", broken)
    local = {"folder": None, "local": tmp_path / "sets", "output": tmp_path / "out"}
    with pytest.raises(NotFinite, match="expected finite numbers"):
        asked(**(local if door == "local" else {}))


def test_scores_that_could_not_be_written_are_not_computed(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(EmbeddingModel, "encode", lambda *_, **__: pytest.fail("encoded"))
    with pytest.raises(UserError, match="is a folder; expected a JSON file"):
        asked(output=tmp_path)
